package bmc

import (
	"context"
	"io"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/events"
)

// Events listens to the BMC until ctx ends and returns its error. It calls
// deliver for every notice, one after the other: what the BMC tells by itself,
// and when it is time to read again what matters. A receiver of nil means that
// no subscription is tried where the BMC has no stream. Everything but the
// stream itself passes the lane as all else does.
func (l *Lane) Events(ctx context.Context, receiver *events.Receiver, deliver func(events.Notice)) error {
	return events.Run(ctx, events.Config{
		Service: eventService{l}, Receiver: receiver, Context: l.cfg.BMC.Context, Jitter: l.cfg.Jitter,
	}, deliver)
}

// SweepEvents removes the event subscriptions that an earlier life of this agent, or
// the agent that worked on the rack before, left on the BMC, and nobody else's.
func (l *Lane) SweepEvents(ctx context.Context) error {
	return events.Sweep(ctx, eventService{l}, func(mark string) bool {
		return mark == l.cfg.BMC.Context || l.cfg.Rack != "" && strings.HasPrefix(mark, l.cfg.Rack)
	})
}

// LogEvents is what the event log of the server holds, as events. Their ids are
// those of the log, which say nothing of what is pushed, and are left out.
func (l *Lane) LogEvents(ctx context.Context) ([]events.Event, error) {
	v := l.view(Monitor)
	service, err := v.logService(ctx)
	if err != nil {
		return nil, err
	}
	raw, err := redfish.Entries(ctx, v, service.Entries, maxEntries)
	if err != nil {
		l.forget(err)
		return nil, err
	}
	all := make([]events.Event, 0, len(raw))
	for _, r := range raw {
		var e struct {
			Created, Severity, Message redfish.Text
			MessageID                  redfish.Text `json:"MessageId"`
		}
		if redfish.Decode(r, &e) != nil {
			continue
		}
		if e.MessageID == "" { // the D-Bus log of OpenBMC has it there
			e.MessageID = e.Message
		}
		all = append(all, events.Event{MessageID: string(e.MessageID), Severity: string(e.Severity), Text: string(e.Message), Time: string(e.Created)})
	}
	return all, nil
}

// eventService is the lane as events need it.
type eventService struct{ lane *Lane }

func (s eventService) Fetch(ctx context.Context, uri string) ([]byte, error) {
	return s.lane.fetch(ctx, Monitor, uri)
}

func (s eventService) Root(ctx context.Context) (*redfish.Root, error) {
	p, err := s.lane.view(Monitor).places(ctx)
	if err != nil {
		return nil, err
	}
	return p.root, nil
}

func (s eventService) Profile() redfish.Profile { return s.lane.client.Profile() }

// Stream opens the stream unless the breaker knows better. It occupies no place
// among the reads: it has its own connection and lasts.
func (s eventService) Stream(ctx context.Context, uri, lastID string) (io.ReadCloser, error) {
	l := s.lane
	if err := l.brk.refuses(); err != nil {
		return nil, l.named(err)
	}
	body, err := l.client.Stream(ctx, uri, lastID)
	if err != nil {
		return nil, l.named(err)
	}
	return body, nil
}

func (s eventService) Post(ctx context.Context, uri string, body any) (reply *redfish.Reply, err error) {
	err = s.lane.write(ctx, Monitor, func() error {
		reply, err = s.lane.client.Post(ctx, uri, body)
		return err
	})
	return reply, err
}

func (s eventService) Delete(ctx context.Context, uri string) (reply *redfish.Reply, err error) {
	err = s.lane.write(ctx, Monitor, func() error {
		reply, err = s.lane.client.Delete(ctx, uri)
		return err
	})
	return reply, err
}

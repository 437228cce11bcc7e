package bmc

import (
	"context"
	"io"

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

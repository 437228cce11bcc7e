package agent

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/agent/core"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/keyfile"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/redfish/events"
)

const (
	// logEvery is how often the log of a BMC is read for rules over events: some
	// makes send none, and builds that have a stream do not send them all.
	logEvery   = 30 * time.Second
	logTimeout = 15 * time.Second
	// tellGap lies between two inputs of one BMC, however much it tells: each may
	// cost a write to the disk that all share.
	tellGap    = 250 * time.Millisecond
	maxHeard   = 256         // events of a BMC that wait to be told
	maxText    = 300         // bytes of an event's text
	sweepAgain = time.Minute // after subscriptions of an earlier life could not be removed
)

// attention is what the rules need of a BMC.
type attention int

const (
	deaf    attention = iota // no rule watches it
	values                   // whatever it tells: read the values now
	hearing                  // a rule is about its events
)

// attend says what each node needs from now on.
func (a *Agent) attend(rules core.Rules) {
	need := make(map[fleet.NodeName]attention, len(a.rack.members()))
	for _, r := range rules {
		n := values
		for _, ref := range r.Monitor.Condition.Refs {
			if ref.IsEvent() {
				n = hearing
			}
		}
		for _, name := range r.Nodes {
			need[name] = max(need[name], n)
		}
	}
	for _, n := range a.rack.members() {
		n.attend(need[n.entry.Name])
	}
}

// hear listens to the BMC of a node as long as a rule watches it, over the lane
// that it has, until ctx ends. What an earlier life left there is removed first.
func (a *Agent) hear(ctx context.Context, n *node) error {
	for ctx.Err() == nil {
		l, need := n.watched()
		swept := l == nil || a.sweep(ctx, n, l)
		listening, stop := context.WithCancel(ctx)
		e := &ear{Agent: a, node: n, lane: l, logs: need == hearing, bell: make(chan struct{}, 1)}
		var working sync.WaitGroup
		if l != nil && need != deaf {
			working.Go(func() { e.listen(listening) })
			working.Go(func() { e.tellAll(listening) })
		}
		n.changes(ctx, l, need, swept)
		stop()
		working.Wait()
	}
	return ctx.Err()
}

// changes waits until the node has another lane or needs another attention, or it
// is time to sweep again.
func (n *node) changes(ctx context.Context, l lane, need attention, swept bool) {
	var again <-chan time.Time
	if !swept {
		timer := time.NewTimer(sweepAgain)
		defer timer.Stop()
		again = timer.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-again:
			return
		case <-n.turned:
		}
		if l2, need2 := n.watched(); l2 != l || need2 != need {
			return
		}
	}
}

// sweep removes the subscriptions that an earlier life may have left on a BMC. It
// reports whether none is left.
func (a *Agent) sweep(ctx context.Context, n *node, l lane) bool {
	if n.swept {
		return true
	}
	left := false
	err := a.spool.View(func(tx *spool.Tx) error {
		left = n.inherited || tx.Has(spool.Subscribed, n.ledger.Record().First)
		return nil
	})
	if err == nil && left {
		asking, cancel := context.WithTimeout(ctx, logTimeout)
		defer cancel()
		if err = l.SweepEvents(asking); err == nil {
			err = a.spool.Update(func(tx *spool.Tx) error { tx.Delete(spool.Subscribed, n.ledger.Record().First); return nil })
		}
	}
	if err != nil && ctx.Err() == nil {
		a.log.Warn("a subscription of an earlier life may still stand", obs.Node, n.entry.Name, obs.Err, err)
	}
	n.swept = err == nil
	return n.swept
}

// ear is one period of listening to one BMC.
type ear struct {
	*Agent
	node *node
	lane lane
	logs bool // rules are about events: what was not pushed comes from the log

	way events.Way // of the listener's goroutine

	bell chan struct{} // a token: there is something to tell
	mu   sync.Mutex
	next core.Heard
	look bool // into the log
}

// listen takes what the BMC tells by itself until ctx ends.
func (e *ear) listen(ctx context.Context) {
	if e.receiver != nil {
		err := e.spool.Update(func(tx *spool.Tx) error {
			tx.PutTime(spool.Subscribed, e.node.ledger.Record().First, e.now())
			return nil
		})
		if err != nil {
			e.complain("subscription", err)
			return
		}
	}
	_ = e.lane.Events(ctx, e.receiver, e.notice) // it ends with ctx alone
}

// notice keeps one notice until it is told.
func (e *ear) notice(n events.Notice) {
	if n.Way != e.way {
		e.way = n.Way
		e.log.Info("a BMC is heard", obs.Node, e.node.entry.Name, obs.Kind, string(n.Way), obs.Reason, n.Why)
	}
	pushed := n.Way != events.ByPolling // else the rules' own periods are as good
	e.mu.Lock()
	defer e.mu.Unlock()
	e.next.Events = append(e.next.Events, toEvents(n.Events)...)
	if over := len(e.next.Events) - maxHeard; over > 0 {
		e.next.Events, n.Gap = slices.Delete(e.next.Events, 0, over), true
	}
	e.next.Gap = e.next.Gap || n.Gap && pushed
	e.look = e.look || n.Gap && pushed
	if len(e.next.Events) > 0 || e.next.Gap {
		e.ring()
	}
}

func (e *ear) ring() {
	select {
	case e.bell <- struct{}{}:
	default:
	}
}

// tellAll tells the rules what was heard and what the log holds, until ctx ends.
func (e *ear) tellAll(ctx context.Context) {
	tick := time.NewTicker(logEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			e.mu.Lock()
			e.look = true
			e.mu.Unlock()
		case <-e.bell:
		}
		e.mu.Lock()
		h, look := e.next, e.look && e.logs
		e.next, e.look = core.Heard{}, false
		e.mu.Unlock()
		h.Node = e.node.entry.Name
		if look {
			h.Log, h.HasLog = e.readLog(ctx)
		}
		if len(h.Events) > 0 || h.Gap || h.HasLog {
			e.tell(ctx, h)
		}
		wait(ctx, tellGap)
	}
}

// readLog is what the BMC's log holds. One that can't be read is tried again at
// the next occasion.
func (e *ear) readLog(ctx context.Context) ([]core.Event, bool) {
	reading, cancel := context.WithTimeout(ctx, logTimeout)
	defer cancel()
	entries, err := e.lane.LogEvents(reading)
	return toEvents(entries), err == nil
}

func toEvents(all []events.Event) []core.Event {
	out := make([]core.Event, 0, len(all))
	for _, ev := range all {
		text := ev.Text
		if len(text) > maxText {
			text = strings.ToValidUTF8(text[:maxText], "")
		}
		out = append(out, core.Event{ID: ev.ID, MessageID: ev.MessageID, Text: text, Time: ev.Time})
	}
	return out
}

// marks are the events that rules have seen, as they were kept.
func (a *Agent) marks() (marks []core.Marks, err error) {
	err = a.spool.View(func(tx *spool.Tx) error {
		for _, raw := range tx.All(spool.Heard, "") {
			var m core.Marks
			if err = json.Unmarshal(raw, &m); err != nil {
				return fault.Wrap(fault.Garbage, "read the events that were heard", err)
			}
			marks = append(marks, m)
		}
		return nil
	})
	return marks, err
}

// receive takes in what BMCs deliver, until ctx ends, if the configuration has an
// address for it.
func (a *Agent) receive(ctx context.Context) error {
	if a.receiver == nil {
		return nil
	}
	const op = "listen for events"
	cert, err := keyfile.Pair(a.cfg.eventsCert())
	if err != nil {
		return fault.Wrap(fault.BadInput, op, err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", a.cfg.EventsListen)
	if err != nil {
		return fault.New(fault.Unavailable, op, err.Error()).WithHint("events_listen in " + ConfigFile + " names the address; another process may have it")
	}
	a.log.Info("listening for events of BMCs", obs.Addr, l.Addr().String())
	err = a.receiver.Serve(ctx, tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}))
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return ctx.Err()
}

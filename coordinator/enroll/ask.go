package enroll

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/enroll"
)

// maxPolled bounds what is remembered of who asks how often.
const maxPolled = 256

// ask keeps a request until a person has judged it, and tells how it stands. It may
// be asked at any coordinator.
func (n *newcomer) ask(ctx context.Context, q *pb.EnrolAsk) (*pb.EnrolWait, *pb.Enrolled, error) {
	if _, err := enroll.Choose(q.GetVersions()); err != nil {
		return nil, nil, err
	}
	id, err := n.identity(q.GetName(), q.GetRack())
	if err != nil {
		return nil, nil, err
	}
	e := &pb.EnrolAgent{Spki: n.spki, Mark: q.GetMark()}
	if known, ok := n.conf.Machine.Enrolment(id.Name); ok && known.GetToken() == "" && bytes.Equal(known.GetMark(), q.GetMark()) {
		done, again := n.enrol(ctx, id.Name, id.Rack, e) // it did not hear the answer
		return nil, done, again
	}
	p, err := n.pending(ctx, id)
	switch {
	case err != nil:
		return nil, nil, err
	case p.GetName() != id.Name || p.GetRack() != id.Rack:
		return nil, nil, fault.New(fault.Conflict, "ask to join", fmt.Sprintf("it has asked to be agent %s of rack %s", p.GetName(), p.GetRack())).
			WithHint("wait until that has ended, or join with another key: an empty --state directory")
	case p.GetJudgedBy() == "":
		return n.waits(p), nil, nil
	case !p.GetApproved():
		return nil, nil, fault.New(fault.Denied, "ask to join", p.GetJudgedBy()+" has denied it")
	}
	done, err := n.enrol(ctx, id.Name, id.Rack, e)
	return nil, done, err
}

// pending is the request of this key, a new one if there is none. What a stranger can
// have written into the log by it is bounded by the requests that there may be.
func (n *newcomer) pending(ctx context.Context, id trust.Identity) (*pb.PendingJoin, error) {
	const op = "ask to join"
	now := n.conf.Now()
	if p, ok := n.conf.Machine.PendingOf(n.spki); ok && now.UnixMilli() <= p.GetUntilUnixMs() {
		return p, nil
	}
	if err := n.conf.Machine.MayEnrol(now.UnixMilli(), &pb.EnrolAgent{Name: id.Name, Rack: id.Rack, Spki: n.spki}); err != nil {
		return nil, err
	}
	host, _, _ := net.SplitHostPort(n.conn.Remote())
	all, here := n.conf.Machine.Pending(now.UnixMilli()), 0
	for _, p := range all {
		if other, _, _ := net.SplitHostPort(p.GetRemote()); other == host {
			here++
		}
	}
	if len(all) >= state.MaxPending || here >= maxAsking {
		return nil, fault.New(fault.Unavailable, op, fmt.Sprintf("%d others wait for approval, %d of them at this address", len(all), here)).
			WithHint("try again in some minutes, or join with a bundle: chiba trust token create")
	}
	random := make([]byte, enroll.CodeBytes)
	_, _ = rand.Read(random) // never fails, see its documentation
	code, err := enroll.Code(random)
	if err != nil {
		return nil, err
	}
	o, err := n.conf.Issuer.Log.Propose(ctx, &pb.Command{Body: &pb.Command_AskJoin{AskJoin: &pb.AskJoin{Pending: &pb.PendingJoin{
		Spki: n.spki, Code: code, Name: id.Name, Rack: id.Rack, Remote: n.conn.Remote(), Coordinator: n.conf.Name,
		UntilUnixMs: now.Add(enroll.CodeLife).UnixMilli(),
	}}}})
	return o.Pending, errors.Join(err, o.Err)
}

// waits is how a request stands that nobody has judged.
func (n *newcomer) waits(p *pb.PendingJoin) *pb.EnrolWait {
	every, soon := enroll.PollEvery, n.tooSoon()
	if soon {
		every += enroll.PollEvery
	}
	return &pb.EnrolWait{Code: p.GetCode(), EveryMs: every.Milliseconds(), UntilUnixMs: p.GetUntilUnixMs(), SlowDown: soon}
}

// tooSoon notes that the key asks now, and reports whether it should have waited.
func (n *newcomer) tooSoon() bool {
	const slack = time.Second // the way is not always of the same length
	n.mu.Lock()
	defer n.mu.Unlock()
	now, key := n.conf.Now(), string(n.spki)
	last, known := n.polled[key]
	if len(n.polled) >= maxPolled {
		clear(n.polled)
	}
	n.polled[key] = now
	return known && now.Sub(last) < enroll.PollEvery-slack
}

package agent

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/agent/local"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/agent/story"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust/sign"
)

// maxHereSource is the largest script that is taken at the agent's own door: it goes
// to the coordinators in one record.
const maxHereSource = 1 << 20

// applyHere does what a person at the agent's own door has had signed, as Desired
// does what a coordinator tells: it is verified, it is on disk before anything of it
// is done, and the coordinators get to know of it before they do of what came of it.
func (a *Agent) applyHere(ctx context.Context, q *pb.ApplyRequest) (*pb.ApplyReply, error) {
	a.desiring.Lock()
	defer a.desiring.Unlock()
	if before, at, err := a.givenBefore(q.GetEnvelope()); err != nil || before != nil {
		return a.applied(before, at, ""), err // whoever sent it had lost the answer
	}
	if err := a.takesOrders(); err != nil {
		return nil, err
	}
	if len(q.GetSource()) > maxHereSource {
		return nil, fault.New(fault.TooLarge, "apply on the rack", fmt.Sprintf("the script has more than %d KiB", maxHereSource>>10)).
			WithHint("apply it at a coordinator, or split it")
	}
	if err := a.spool.Full(); err != nil {
		return nil, err
	}
	l, err := a.given(ctx, q.GetEnvelope(), q.GetSource(), order.Standing, order.Run)
	if err != nil {
		return nil, err
	}
	program, found, err := a.check(request{file: l.GetFile(), source: l.GetSource(), allowEmpty: l.GetAllowEmpty()})
	switch {
	case err != nil:
		return nil, err
	case found.GetErrors() > 0:
		return &pb.ApplyReply{Diagnostics: found}, nil
	case program.Standing() != (l.GetKind() == string(order.Standing)):
		return nil, fault.New(fault.BadInput, "verify order", "the order is to do another kind of script: "+l.GetKind())
	case program.Rollout != nil:
		return nil, fault.New(fault.Unsupported, "apply on the rack", "waves are led by the coordinators").
			WithHint("apply it at a coordinator when one is reached; to do it here at once, apply its forms without (rollout …)")
	}
	l.Run = a.runID(l.GetEnvelope())
	at := a.now().UnixMilli()
	return a.applied(l, at, found.GetText()), a.putHere(l, at)
}

// takesOrders is why nothing can be ordered here, nil if it can: the standby of the rack
// would keep what the owner never hears of.
func (a *Agent) takesOrders() error {
	if a.office.reigns() {
		return nil
	}
	by := a.office.claim().Agent
	if by == "" || by == string(a.cfg.Name) {
		return fault.New(fault.Unavailable, "take an order", "this agent does not know yet whether the rack is its own").WithHint("try again in a moment")
	}
	return fault.New(fault.Conflict, "take an order", fmt.Sprintf("this agent is the standby of the rack; agent %s works on it", by)).
		WithHint("give it on the machine of " + by + "; if that one is dead, this agent takes the rack over by itself")
}

func (a *Agent) applied(l *pb.LocalOrder, at int64, warnings string) *pb.ApplyReply {
	if l == nil {
		return nil
	}
	run := story.WithoutSource(story.RunOf(l, string(a.cfg.Rack), at))
	run.State = story.Running
	reply := &pb.ApplyReply{Run: run, Warnings: warnings}
	if l.GetKind() == string(order.Standing) {
		reply.Revision = a.revisionHere()
	}
	return reply
}

// revisionHere is that of a script that is put into force here: the fleet's, as far as
// it is known.
func (a *Agent) revisionHere() uint64 {
	a.standing.mu.Lock()
	defer a.standing.mu.Unlock()
	return max(1, a.standing.revision)
}

// removeHere ends the force of a script on this rack.
func (a *Agent) removeHere(ctx context.Context, q *pb.RemoveScriptRequest) (*pb.RemoveScriptReply, error) {
	a.desiring.Lock()
	defer a.desiring.Unlock()
	if before, _, err := a.givenBefore(q.GetEnvelope()); err != nil || before != nil {
		return &pb.RemoveScriptReply{}, err
	}
	if err := a.takesOrders(); err != nil {
		return nil, err
	}
	l, err := a.given(ctx, q.GetEnvelope(), nil, order.Remove)
	if err != nil {
		return nil, err
	}
	if _, have := a.Have(); l.GetName() != q.GetName() || have[l.GetName()] == "" {
		return nil, fault.New(fault.NotFound, "remove script", fmt.Sprintf("no script named %q stands on this rack", q.GetName())).
			WithHint("see which do: chiba --agent get scripts")
	}
	return &pb.RemoveScriptReply{}, a.putHere(l, a.now().UnixMilli())
}

// cancelHere stops a run on this rack, whoever has begun it.
func (a *Agent) cancelHere(ctx context.Context, q *pb.CancelRunRequest) (*pb.CancelRunReply, error) {
	a.desiring.Lock()
	defer a.desiring.Unlock()
	if err := a.takesOrders(); err != nil {
		return nil, err
	}
	run, err := a.running(q.GetId())
	if err != nil {
		return nil, err
	}
	l, err := a.given(ctx, q.GetEnvelope(), nil, order.Cancel)
	if err != nil {
		return nil, err
	}
	o, err := a.canceling(&pb.Run{Script: run.GetScript(), Cancel: q.GetEnvelope()})
	if err == nil && o.Cancels != run.GetVersion() {
		err = fault.New(fault.BadInput, "verify order", "the signed order does not fit the call: it cancels another run")
	}
	if err != nil {
		return nil, err
	}
	l.Run = run.GetId()
	err = a.spool.Update(func(tx *spool.Tx) error {
		tx.Put(spool.Stopped, orderKey(o.Name, o.Cancels), nil)
		tx.Append(a.now(), &pb.Record{Body: &pb.Record_Local{Local: l}})
		return nil
	})
	if err = a.toldStandby(err); err != nil {
		return nil, err
	}
	a.runs.stopHere(orderKey(o.Name, o.Cancels))
	run.State = story.Canceled
	return &pb.CancelRunReply{Run: story.WithoutSource(run)}, nil
}

// running is a run that is not over.
func (a *Agent) running(id string) (*pb.Run, error) {
	all, err := a.accepted()
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(all, func(r *pb.Run) bool { return r.GetId() == id }); i >= 0 {
		return all[i], nil
	}
	return nil, fault.New(fault.NotFound, "cancel run", fmt.Sprintf("no run %q is going on here", id)).
		WithHint("see which are: chiba --agent get runs")
}

// given verifies an order that has just been given here, as those of coordinators are
// verified. What is refused is recorded, with who gave it.
func (a *Agent) given(ctx context.Context, envelope, source []byte, kinds ...order.Kind) (*pb.LocalOrder, error) {
	who := local.UserOf(ctx)
	o, signers, err := a.verified(envelope, source, kinds)
	if err != nil {
		claimed, _ := sign.Peek(envelope) // for the record only
		refusal := a.refusal(cmp.Or(string(claimed.Kind), refusedRun), claimed.Name, envelope, err)
		refusal.By = fmt.Sprintf("%s (uid %d)", who, who.UID)
		a.authority.mu.Lock()
		defer a.authority.mu.Unlock()
		return nil, errors.Join(err, a.tellRefused(refusal))
	}
	l := &pb.LocalOrder{
		Kind: string(o.Kind), Name: o.Name, Version: o.Version, Envelope: envelope, File: o.File, Source: source, Digest: o.Digest,
		Signers: signers, User: who.String(), Uid: who.UID, AllowEmpty: o.AllowEmpty, CutOff: !a.connected(),
	}
	if o.Scripted() {
		l.DeadlineUnixMs = o.NotAfter.UnixMilli()
	}
	return l, nil
}

func (a *Agent) verified(envelope, source []byte, kinds []order.Kind) (order.Order, []string, error) {
	policy := a.authority.current()
	o, err := policy.Fresh(envelope, source, string(a.cfg.Rack), a.now())
	if err != nil {
		return o, nil, err
	}
	if !slices.Contains(kinds, o.Kind) {
		return o, nil, named(o, o.Name) // which says what it is
	}
	if o.Scripted() {
		err = sign.Begins(o, a.now())
	}
	if err == nil && o.Kind != order.Cancel {
		err = a.newest(o)
	}
	if err != nil {
		return o, nil, err
	}
	_, signers, err := policy.Order(envelope)
	return o, signers, err
}

// newest refuses an order that is not newer than all that this rack has had for its
// name.
func (a *Agent) newest(o order.Order) error {
	last, err := a.lastVersion(o.Name)
	if err == nil && o.Version <= last {
		err = older(o, last)
	}
	return err
}

// lastVersion is that of the newest order for a name that was obeyed here.
func (a *Agent) lastVersion(name string) (last uint64, err error) {
	err = a.spool.View(func(tx *spool.Tx) error {
		script, _ := journal.Floor(tx, journal.FloorOfScript, name)
		run, _ := journal.Floor(tx, journal.FloorOfRun, name)
		last = max(script, run)
		return nil
	})
	return last, err
}

// putHere puts an order into force that was given here at a time in ms. Only one that
// was verified comes here, with the desired state locked.
func (a *Agent) putHere(l *pb.LocalOrder, at int64) error {
	rack := string(a.cfg.Rack)
	a.standing.mu.Lock()
	next := maps.Clone(a.standing.scripts)
	a.standing.mu.Unlock()
	delete(next, l.GetName()) // what is done once ends what stood under its name
	if l.GetKind() == string(order.Standing) {
		next[l.GetName()] = a.compiled(&pb.Script{
			Name: l.GetName(), File: l.GetFile(), Digest: l.GetDigest(), Version: l.GetVersion(), Source: l.GetSource(), Envelope: l.GetEnvelope(),
			Revision: a.revisionHere(), AppliedUnixMs: at, AppliedBy: l.GetUser() + "@" + rack, Rack: rack,
		})
	}
	err := a.spool.Update(func(tx *spool.Tx) error {
		tx.Delete(spool.Scripts, l.GetName())
		if s := next[l.GetName()]; s != nil {
			tx.PutMessage(spool.Scripts, l.GetName(), s.Script)
		}
		journal.Raise(tx, journal.FloorOfScript, l.GetName(), l.GetVersion(), "")
		if l.GetRun() != "" {
			run := story.RunOf(l, rack, at)
			journal.Accept(tx, run)
		}
		record := &pb.Record{Body: &pb.Record_Local{Local: l}}
		tx.Append(time.UnixMilli(at), record)
		tx.PutMessage(spool.Here, l.GetName(), &pb.Record{AtUnixMs: at, Body: &pb.Record_Local{Local: hereKept(l)}})
		return nil
	})
	if err = a.toldStandby(err); err != nil {
		return err
	}
	a.standing.mu.Lock()
	a.standing.scripts = next
	a.standing.mu.Unlock()
	a.log.Info("an order was given on the rack", obs.Kind, l.GetKind(), obs.Script, l.GetName(), obs.Peer, l.GetUser(), obs.Run, l.GetRun())
	a.retarget()
	a.runs.kick()
	return nil
}

// hereKept is what is remembered of an order: all but its script.
func hereKept(l *pb.LocalOrder) *pb.LocalOrder {
	kept := story.Bare(l)
	kept.Envelope = l.GetEnvelope()
	return kept
}

// givenBefore is the order in that envelope, and when it was given (ms), if it is the
// last one for its name.
func (a *Agent) givenBefore(envelope []byte) (*pb.LocalOrder, int64, error) {
	claimed, err := sign.Peek(envelope)
	if err != nil {
		return nil, 0, nil //nolint:nilerr // it is verified, and refused, as one that is new
	}
	l, at, err := a.here(claimed.Name)
	if err != nil || !bytes.Equal(l.GetEnvelope(), envelope) {
		return nil, 0, err
	}
	return l, at, nil
}

// here is the last order for a name that was given here, if no coordinator has told a
// newer one since.
func (a *Agent) here(name string) (l *pb.LocalOrder, at int64, err error) {
	err = a.spool.View(func(tx *spool.Tx) error {
		r := &pb.Record{}
		bad := proto.Unmarshal(tx.Get(spool.Here, name), r)
		l, at = r.GetLocal(), r.GetAtUnixMs()
		return fault.Wrap(fault.Garbage, "read what was ordered on the rack", bad)
	})
	return l, at, err
}

// unheard reports whether a coordinator that tells of an order for a name merely has
// not heard yet of a newer one that was given here.
func (a *Agent) unheard(name string, version uint64) (bool, error) {
	l, _, err := a.here(name)
	return l != nil && version < l.GetVersion(), err
}

// stoppedHere are the runs that people here have stopped and that go on still, as
// orderKey names them.
func (a *Agent) stoppedHere() (stopped map[string]bool, err error) {
	stopped = make(map[string]bool)
	err = a.spool.View(func(tx *spool.Tx) error {
		for key := range tx.All(spool.Stopped, "") {
			stopped[key] = true
		}
		return nil
	})
	return stopped, err
}

// runID names a run that is begun here after its order, so that no two of the fleet
// have one name, and the same order never makes two.
func (a *Agent) runID(envelope []byte) string {
	sum := sha256.Sum256(envelope)
	return string(a.cfg.Rack) + "-L" + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:])[:8])
}

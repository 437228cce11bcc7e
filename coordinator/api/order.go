package api

import (
	"context"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust/sign"
)

// ordered verifies an order as the agents will, so that what they would refuse is
// said at once. They do not rely on it.
func (s *Server) ordered(envelope, source []byte, kinds ...order.Kind) (order.Order, error) {
	policy, err := s.policy()
	if err != nil {
		return order.Order{}, err
	}
	o, err := policy.Fresh(envelope, source, "", time.Now())
	if err != nil {
		return order.Order{}, err
	}
	if !slices.Contains(kinds, o.Kind) {
		return order.Order{}, unfit("it is to " + o.String())
	}
	if _, err := scriptName(o.Name, ""); err != nil {
		return order.Order{}, err
	}
	return o, nil
}

// policy is the policy of authors; nil if none was set.
func (s *Server) policy() (*sign.Policy, error) {
	envelope, version := s.conf.Machine.Policy()
	if version == 0 {
		return nil, nil //nolint:nilnil // a nil policy admits nothing and says so
	}
	return s.conf.Root.Policy(envelope)
}

func unfit(why string) error {
	return fault.New(fault.BadInput, "verify order", "the signed order does not fit the call: "+why)
}

// begins compares the deadline of an order with our clock.
func begins(o order.Order) error {
	now := time.Now()
	if err := sign.Begins(o, now); err != nil {
		return err
	}
	if o.NotAfter.Sub(now) > maxRunTimeout {
		return fault.New(fault.BadInput, "start the run", "its deadline is more than 720h away").WithHint("try --timeout 1h")
	}
	return nil
}

// fits compares an order with what its script means in this fleet.
func (sc *script) fits(o order.Order) error {
	if standing := sc.program.Standing(); standing != (o.Kind == order.Standing) {
		return unfit("it is to " + o.String())
	}
	for _, rack := range sc.racks {
		if !o.For(rack) {
			return fault.New(fault.Conflict, "verify order", fmt.Sprintf("the script concerns rack %s, for which it is not signed", rack)).
				WithHint("the fleet has changed since it was prepared: prepare and sign it again")
		}
	}
	return nil
}

// command keeps the script, if anything in it is standing, and starts its run.
func (sc *script) command(o order.Order, by string, envelope []byte) *pb.ApplyScript {
	run := &pb.Run{
		Script: o.Name, File: sc.file, Source: sc.source, Digest: o.Digest, StartedBy: by, AllowEmpty: o.AllowEmpty,
		DeadlineUnixMs: o.NotAfter.UnixMilli(), Version: o.Version, Envelope: envelope,
	}
	run.Rollout = rolloutOf(sc.program.Rollout)
	for _, rack := range sc.racks {
		run.Racks = append(run.Racks, &pb.RackRun{Rack: rack})
	}
	c := &pb.ApplyScript{Run: run}
	if o.Kind == order.Standing {
		c.Script = &pb.Script{
			Name: o.Name, File: sc.file, Source: sc.source, Digest: o.Digest, AppliedBy: by,
			Version: o.Version, Audience: o.Audience, Envelope: envelope,
		}
	}
	return c
}

// rolloutOf is what a script says of its waves.
func rolloutOf(r *scl.Rollout) *pb.Rollout {
	if r == nil {
		return nil
	}
	return &pb.Rollout{
		Name: r.Name, Canary: int32(r.Canary), Wave: shareOf(r.Wave), MaxFailures: shareOf(r.MaxFailures),
		PauseMs: r.Pause.Milliseconds(), Approve: r.Approve, LostAfterMs: r.LostAfter.Milliseconds(),
	}
}

func shareOf(s scl.Share) *pb.Share {
	return &pb.Share{Count: int32(s.Count), Percent: s.Percent}
}

// narrow keeps the racks of the nodes that an order is only for.
func (s *Server) narrow(sc *script, only []string) error {
	if len(only) == 0 {
		return nil
	}
	rackOf := map[string]string{}
	for _, n := range s.conf.Machine.Nodes() {
		rackOf[n.GetName()] = n.GetRack()
	}
	var racks []string
	for _, name := range only {
		rack, known := rackOf[name]
		if !known || !slices.Contains(sc.racks, rack) {
			return fault.New(fault.NotFound, "narrow the script", fmt.Sprintf("it does not concern a node %q", name)).
				WithHint("see: chiba get nodes")
		}
		racks = append(racks, rack)
	}
	slices.Sort(racks)
	sc.racks = slices.Compact(racks)
	return nil
}

// cancels verifies an order to stop a run.
func (s *Server) cancels(envelope []byte, run *pb.Run) error {
	o, err := s.ordered(envelope, nil, order.Cancel)
	if err != nil {
		return err
	}
	if o.Name != run.GetScript() || o.Cancels != run.GetVersion() {
		return unfit("it cancels another run")
	}
	return nil
}

// Prepare implements pbconnect.FleetHandler.
func (s *Server) Prepare(_ context.Context, r *connect.Request[pb.PrepareRequest]) (*connect.Response[pb.PrepareReply], error) {
	q := r.Msg
	name, err := scriptName(q.GetName(), q.GetFile())
	if err != nil {
		return nil, err
	}
	answer := &pb.PrepareReply{Name: name, Version: s.conf.Machine.LastVersion(name)}
	if len(q.GetSource()) == 0 {
		return connect.NewResponse(answer), nil
	}
	sc, wrong, err := s.check(request{file: q.GetFile(), source: q.GetSource(), allowEmpty: q.GetAllowEmpty()})
	if err != nil {
		return nil, err
	}
	if wrong != nil {
		answer.Diagnostics = wrong
		return connect.NewResponse(answer), nil
	}
	proofs := map[string][]byte{}
	for _, a := range s.conf.Machine.Agents() {
		proofs[a.GetRack()] = a.GetSealProof()
	}
	for _, rack := range sc.racks {
		answer.Racks = append(answer.Racks, &pb.SealKey{Rack: rack, Proof: proofs[rack]})
	}
	return connect.NewResponse(answer), nil
}

// PutPolicy implements pbconnect.FleetHandler.
func (s *Server) PutPolicy(ctx context.Context, r *connect.Request[pb.PutPolicyRequest]) (*connect.Response[pb.PutPolicyReply], error) {
	policy, err := s.conf.Root.Policy(r.Msg.GetEnvelope())
	if err != nil {
		return nil, err
	}
	_, err = s.commit(ctx, &pb.Command{Body: &pb.Command_PutPolicy{PutPolicy: &pb.PutPolicy{Version: policy.Version, Envelope: r.Msg.GetEnvelope()}}})
	if err != nil {
		return nil, err
	}
	s.conf.Log.Info("policy of authors set", obs.Count, policy.Version, obs.Peer, callerOf(ctx).name)
	return connect.NewResponse(&pb.PutPolicyReply{Version: policy.Version}), nil
}

// GetPolicy implements pbconnect.FleetHandler.
func (s *Server) GetPolicy(context.Context, *connect.Request[pb.GetPolicyRequest]) (*connect.Response[pb.GetPolicyReply], error) {
	envelope, _ := s.conf.Machine.Policy()
	return connect.NewResponse(&pb.GetPolicyReply{Envelope: envelope}), nil
}

// auditPage is how many records one answer holds, at about 300 bytes each.
const auditPage = 8192

// ReadAudit implements pbconnect.FleetHandler. The checkpoint may be of a log that
// is longer than the records; the caller goes on reading up to it.
func (s *Server) ReadAudit(_ context.Context, r *connect.Request[pb.ReadAuditRequest]) (*connect.Response[pb.ReadAuditReply], error) {
	checkpoint, err := s.conf.Checkpoint(0)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.ReadAuditReply{
		Records: s.conf.Machine.Audit(r.Msg.GetFrom(), auditPage), Checkpoint: checkpoint,
	}), nil
}

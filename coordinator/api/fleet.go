package api

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
)

const (
	maxRunTimeout = 30 * 24 * time.Hour // for racks that may be cut off for days
	listedFirings = 1000
)

// Apply implements pbconnect.FleetHandler.
func (s *Server) Apply(ctx context.Context, r *connect.Request[pb.ApplyRequest]) (*connect.Response[pb.ApplyReply], error) {
	q := r.Msg
	o, err := s.ordered(q.GetEnvelope(), q.GetSource(), order.Standing, order.Run)
	if err != nil {
		return nil, err
	}
	if err = begins(o); err != nil {
		return nil, err
	}
	sc, wrong, err := s.check(request{file: o.File, source: q.GetSource(), allowEmpty: o.AllowEmpty})
	if err != nil {
		return nil, err
	}
	if wrong != nil {
		return connect.NewResponse(&pb.ApplyReply{Diagnostics: wrong}), nil
	}
	if err = sc.fits(o); err != nil {
		return nil, err
	}
	if err = s.narrow(sc, o.Only); err != nil {
		return nil, err
	}
	by := callerOf(ctx).name
	out, err := s.commit(ctx, &pb.Command{Body: &pb.Command_ApplyScript{ApplyScript: sc.command(o, by, q.GetEnvelope())}})
	if err != nil {
		return nil, err
	}
	s.conf.Log.Info("script applied", obs.Script, o.Name, obs.Run, out.Run.GetId(), obs.Peer, by)
	_, cutOff := s.split(sc.racks)
	return connect.NewResponse(&pb.ApplyReply{
		Run: withoutSource(out.Run), Revision: out.Script.GetRevision(), Warnings: sc.warnings.String(), CutOff: cutOff,
	}), nil
}

// scriptName is the name that the caller gives, or the file's.
func scriptName(name, file string) (string, error) {
	if name == "" {
		name = strings.TrimSuffix(path.Base(strings.ReplaceAll(file, `\`, "/")), ".scl")
	}
	if !trust.ValidName(name) || strings.Trim(name, ".") == "" {
		return "", fault.New(fault.BadInput, "name the script", fmt.Sprintf("%q can't be its name", name)).
			WithHint("give it one of 1 to 63 letters, digits, '-', '_' or '.' with --name")
	}
	return name, nil
}

// commit is Propose with the state's refusal as its error. The command says who
// asked for it.
func (s *Server) commit(ctx context.Context, c *pb.Command) (state.Outcome, error) {
	c.By = callerOf(ctx).name
	o, err := s.conf.Commands.Propose(ctx, c)
	return o, errors.Join(err, o.Err)
}

// ListNodes implements pbconnect.FleetHandler.
func (s *Server) ListNodes(_ context.Context, r *connect.Request[pb.ListNodesRequest]) (*connect.Response[pb.ListNodesReply], error) {
	reply := &pb.ListNodesReply{Nodes: s.conf.Machine.Nodes()}
	if r.Msg.GetCandidates() {
		reply.Candidates = s.conf.Machine.Candidates()
	}
	return connect.NewResponse(reply), nil
}

// ListAgents implements pbconnect.FleetHandler.
func (s *Server) ListAgents(context.Context, *connect.Request[pb.ListAgentsRequest]) (*connect.Response[pb.ListAgentsReply], error) {
	return connect.NewResponse(&pb.ListAgentsReply{Agents: s.conf.Agents.Agents(), Silent: s.conf.Group.Silent()}), nil
}

// ListScripts implements pbconnect.FleetHandler.
func (s *Server) ListScripts(context.Context, *connect.Request[pb.ListScriptsRequest]) (*connect.Response[pb.ListScriptsReply], error) {
	return connect.NewResponse(&pb.ListScriptsReply{Scripts: s.conf.Machine.Scripts()}), nil
}

// GetScript implements pbconnect.FleetHandler.
func (s *Server) GetScript(_ context.Context, r *connect.Request[pb.GetScriptRequest]) (*connect.Response[pb.Script], error) {
	sc, ok := s.conf.Machine.Script(r.Msg.GetName())
	if !ok {
		return nil, noScript("get script", r.Msg.GetName())
	}
	return connect.NewResponse(sc), nil
}

func noScript(op, name string) error {
	return fault.New(fault.NotFound, op, fmt.Sprintf("no script named %q stands", name)).WithHint("see which do: chiba get scripts")
}

// RemoveScript implements pbconnect.FleetHandler.
func (s *Server) RemoveScript(ctx context.Context, r *connect.Request[pb.RemoveScriptRequest]) (*connect.Response[pb.RemoveScriptReply], error) {
	name := r.Msg.GetName()
	if _, ok := s.conf.Machine.Script(name); !ok && len(r.Msg.GetEnvelope()) == 0 {
		return nil, noScript("remove script", name)
	}
	o, err := s.ordered(r.Msg.GetEnvelope(), nil, order.Remove)
	if err != nil {
		return nil, err
	}
	if o.Name != name {
		return nil, unfit("it removes " + o.Name)
	}
	_, err = s.commit(ctx, &pb.Command{Body: &pb.Command_RemoveScript{RemoveScript: &pb.RemoveScript{
		Name: name, Version: o.Version, Envelope: r.Msg.GetEnvelope(),
	}}})
	if err != nil {
		return nil, err
	}
	s.conf.Log.Info("script removed", obs.Script, name, obs.Peer, callerOf(ctx).name)
	return connect.NewResponse(&pb.RemoveScriptReply{}), nil
}

// ListRuns implements pbconnect.FleetHandler.
func (s *Server) ListRuns(context.Context, *connect.Request[pb.ListRunsRequest]) (*connect.Response[pb.ListRunsReply], error) {
	return connect.NewResponse(&pb.ListRunsReply{Runs: s.conf.Machine.Runs()}), nil
}

// GetRun implements pbconnect.FleetHandler.
func (s *Server) GetRun(ctx context.Context, r *connect.Request[pb.GetRunRequest]) (*connect.Response[pb.GetRunReply], error) {
	if err := s.meet(ctx, r.Msg.GetId()); err != nil {
		return nil, err
	}
	run, results, ok := s.conf.Machine.Run(r.Msg.GetId(), 0)
	if !ok {
		return nil, noRun(r.Msg.GetId())
	}
	return connect.NewResponse(&pb.GetRunReply{Run: run, Results: results}), nil
}

func noRun(id string) error {
	return fault.New(fault.NotFound, "get run", fmt.Sprintf("there is no run %q", id)).WithHint("see which there are: chiba get runs")
}

// CancelRun implements pbconnect.FleetHandler.
func (s *Server) CancelRun(ctx context.Context, r *connect.Request[pb.CancelRunRequest]) (*connect.Response[pb.CancelRunReply], error) {
	id, by := r.Msg.GetId(), callerOf(ctx).name
	run, _, ok := s.conf.Machine.Run(id, state.NoResults)
	if !ok {
		return nil, noRun(id)
	}
	if err := s.cancels(r.Msg.GetEnvelope(), run); err != nil {
		return nil, err
	}
	o, err := s.commit(ctx, &pb.Command{Body: &pb.Command_CancelRun{CancelRun: &pb.CancelRun{Id: id, By: by, Envelope: r.Msg.GetEnvelope()}}})
	if err != nil {
		return nil, err
	}
	s.conf.Log.Info("run canceled", obs.Run, id, obs.Peer, by)
	return connect.NewResponse(&pb.CancelRunReply{Run: withoutSource(o.Run)}), nil
}

// SteerRun implements pbconnect.FleetHandler.
func (s *Server) SteerRun(ctx context.Context, r *connect.Request[pb.SteerRunRequest]) (*connect.Response[pb.SteerRunReply], error) {
	id, act := r.Msg.GetId(), r.Msg.GetAct()
	if act == "" || act == state.CutOff {
		return nil, fault.New(fault.BadInput, "steer run", "it does not say what to do").WithHint("pause, resume or approve")
	}
	o, err := s.commit(ctx, &pb.Command{Body: &pb.Command_SteerRun{SteerRun: &pb.SteerRun{Id: id, Act: act}}})
	if err != nil {
		return nil, err
	}
	s.conf.Log.Info("run steered", obs.Run, id, obs.Kind, act, obs.Peer, callerOf(ctx).name)
	return connect.NewResponse(&pb.SteerRunReply{Run: withoutSource(o.Run)}), nil
}

// ListHardwareNews implements pbconnect.FleetHandler.
func (s *Server) ListHardwareNews(context.Context, *connect.Request[pb.ListHardwareNewsRequest]) (*connect.Response[pb.ListHardwareNewsReply], error) {
	return connect.NewResponse(&pb.ListHardwareNewsReply{News: s.conf.Machine.HardwareNews(listedFirings)}), nil
}

// ListFirings implements pbconnect.FleetHandler.
func (s *Server) ListFirings(context.Context, *connect.Request[pb.ListFiringsRequest]) (*connect.Response[pb.ListFiringsReply], error) {
	return connect.NewResponse(&pb.ListFiringsReply{Firings: s.conf.Machine.Firings(listedFirings)}), nil
}

// withoutSource is a run for people: its source is the script's.
func withoutSource(r *pb.Run) *pb.Run {
	if r == nil {
		return nil
	}
	return &pb.Run{
		Id: r.GetId(), Script: r.GetScript(), File: r.GetFile(), Digest: r.GetDigest(),
		StartedUnixMs: r.GetStartedUnixMs(), DeadlineUnixMs: r.GetDeadlineUnixMs(), StartedBy: r.GetStartedBy(),
		Racks: r.GetRacks(), State: r.GetState(), EndedUnixMs: r.GetEndedUnixMs(), AllowEmpty: r.GetAllowEmpty(), Version: r.GetVersion(),
		Rollout: r.GetRollout(),
	}
}

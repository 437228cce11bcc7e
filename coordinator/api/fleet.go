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
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
)

const (
	runTimeout    = time.Hour           // of a run whose caller asks for none
	maxRunTimeout = 30 * 24 * time.Hour // for racks that may be cut off for days
	listedFirings = 1000
)

// Apply implements pbconnect.FleetHandler.
func (s *Server) Apply(ctx context.Context, r *connect.Request[pb.ApplyRequest]) (*connect.Response[pb.ApplyReply], error) {
	q := r.Msg
	name, err := scriptName(q)
	if err != nil {
		return nil, err
	}
	timeout, err := timeoutOf(q)
	if err != nil {
		return nil, err
	}
	sc, wrong, err := s.check(request{file: q.GetFile(), source: q.GetSource(), allowEmpty: q.GetAllowEmpty()})
	if err != nil {
		return nil, err
	}
	if wrong != nil {
		return connect.NewResponse(&pb.ApplyReply{Diagnostics: wrong}), nil
	}
	by := callerOf(ctx).name
	o, err := s.commit(ctx, &pb.Command{Body: &pb.Command_ApplyScript{ApplyScript: sc.command(name, by, q.GetAllowEmpty(), timeout)}})
	if err != nil {
		return nil, err
	}
	s.conf.Log.Info("script applied", obs.Script, name, obs.Run, o.Run.GetId(), obs.Peer, by)
	_, cutOff := s.split(sc.racks)
	return connect.NewResponse(&pb.ApplyReply{
		Run: withoutSource(o.Run), Revision: o.Script.GetRevision(), Warnings: sc.warnings.String(), CutOff: cutOff,
	}), nil
}

// scriptName is the name that the caller gives, or the file's.
func scriptName(q *pb.ApplyRequest) (string, error) {
	name := q.GetName()
	if name == "" {
		name = strings.TrimSuffix(path.Base(strings.ReplaceAll(q.GetFile(), `\`, "/")), ".scl")
	}
	if !trust.ValidName(name) || strings.Trim(name, ".") == "" {
		return "", fault.New(fault.BadInput, "name the script", fmt.Sprintf("%q can't be its name", name)).
			WithHint("give it one of 1 to 63 letters, digits, '-', '_' or '.' with --name")
	}
	return name, nil
}

func timeoutOf(q *pb.ApplyRequest) (time.Duration, error) {
	d := time.Duration(q.GetTimeoutMs()) * time.Millisecond
	switch {
	case q.GetTimeoutMs() == 0:
		return runTimeout, nil
	case q.GetTimeoutMs() < 0 || q.GetTimeoutMs() > maxRunTimeout.Milliseconds():
		return 0, fault.New(fault.BadInput, "start the run", "its timeout is not between 1ms and 720h").WithHint("try --timeout 1h")
	}
	return d, nil
}

// command keeps the script, if anything in it is standing, and starts its run.
func (sc *script) command(name, by string, allowEmpty bool, timeout time.Duration) *pb.ApplyScript {
	digest := state.Digest(sc.sealed)
	run := &pb.Run{
		Script: name, File: sc.file, Source: sc.sealed, Digest: digest, StartedBy: by, AllowEmpty: allowEmpty,
		DeadlineUnixMs: time.Now().Add(timeout).UnixMilli(),
	}
	for _, rack := range sc.racks {
		run.Racks = append(run.Racks, &pb.RackRun{Rack: rack})
	}
	c := &pb.ApplyScript{Run: run}
	if sc.program.Standing() {
		c.Script = &pb.Script{Name: name, File: sc.file, Source: sc.sealed, Digest: digest, AppliedBy: by}
	}
	return c
}

// commit is Propose with the state's refusal as its error.
func (s *Server) commit(ctx context.Context, c *pb.Command) (state.Outcome, error) {
	o, err := s.conf.Commands.Propose(ctx, c)
	return o, errors.Join(err, o.Err)
}

// ListNodes implements pbconnect.FleetHandler.
func (s *Server) ListNodes(context.Context, *connect.Request[pb.ListNodesRequest]) (*connect.Response[pb.ListNodesReply], error) {
	return connect.NewResponse(&pb.ListNodesReply{Nodes: s.conf.Machine.Nodes()}), nil
}

// ListAgents implements pbconnect.FleetHandler.
func (s *Server) ListAgents(context.Context, *connect.Request[pb.ListAgentsRequest]) (*connect.Response[pb.ListAgentsReply], error) {
	return connect.NewResponse(&pb.ListAgentsReply{Agents: s.conf.Agents.Agents()}), nil
}

// ListScripts implements pbconnect.FleetHandler.
func (s *Server) ListScripts(context.Context, *connect.Request[pb.ListScriptsRequest]) (*connect.Response[pb.ListScriptsReply], error) {
	return connect.NewResponse(&pb.ListScriptsReply{Scripts: s.conf.Machine.Scripts()}), nil
}

// GetScript implements pbconnect.FleetHandler.
func (s *Server) GetScript(_ context.Context, r *connect.Request[pb.GetScriptRequest]) (*connect.Response[pb.Script], error) {
	sc, ok := s.conf.Machine.Script(r.Msg.GetName())
	if !ok {
		return nil, fault.New(fault.NotFound, "get script", fmt.Sprintf("no script named %q stands", r.Msg.GetName())).
			WithHint("see which do: chiba get scripts")
	}
	return connect.NewResponse(sc), nil
}

// RemoveScript implements pbconnect.FleetHandler.
func (s *Server) RemoveScript(ctx context.Context, r *connect.Request[pb.RemoveScriptRequest]) (*connect.Response[pb.RemoveScriptReply], error) {
	name := r.Msg.GetName()
	_, err := s.commit(ctx, &pb.Command{Body: &pb.Command_RemoveScript{RemoveScript: &pb.RemoveScript{Name: name}}})
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
func (s *Server) GetRun(_ context.Context, r *connect.Request[pb.GetRunRequest]) (*connect.Response[pb.GetRunReply], error) {
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
	o, err := s.commit(ctx, &pb.Command{Body: &pb.Command_CancelRun{CancelRun: &pb.CancelRun{Id: id, By: by}}})
	if err != nil {
		return nil, err
	}
	s.conf.Log.Info("run canceled", obs.Run, id, obs.Peer, by)
	return connect.NewResponse(&pb.CancelRunReply{Run: withoutSource(o.Run)}), nil
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
		Racks: r.GetRacks(), State: r.GetState(), EndedUnixMs: r.GetEndedUnixMs(), AllowEmpty: r.GetAllowEmpty(),
	}
}

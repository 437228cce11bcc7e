package api

import (
	"context"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	// watchQueue is how many events may wait for one watcher.
	watchQueue  = 1024
	pastFirings = 100
)

// Watch implements pbconnect.FleetHandler.
func (s *Server) Watch(ctx context.Context, r *connect.Request[pb.WatchRequest], stream *connect.ServerStream[pb.Event]) error {
	release, err := s.streaming()
	if err != nil {
		return err
	}
	defer release()
	w := s.conf.Feed.Watch(watchQueue)
	defer w.Close()
	if err = s.past(ctx, r.Msg.GetPast(), stream); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return stopped()
		case e, ok := <-w.Events():
			if !ok {
				return w.Err()
			}
			if err = send(ctx, stream, e); err != nil {
				return err
			}
		}
	}
}

// past tells the last firings, if they are wanted. Without them it sends the
// headers, so that the caller knows that the watch has begun.
func (s *Server) past(ctx context.Context, wanted bool, stream *connect.ServerStream[pb.Event]) error {
	if !wanted {
		return stream.Send(nil)
	}
	for _, f := range s.conf.Machine.Firings(pastFirings) {
		if err := send(ctx, stream, &pb.Event{AtUnixMs: f.GetAtUnixMs(), Body: &pb.Event_Firing{Firing: f}}); err != nil {
			return err
		}
	}
	return nil
}

// WatchRun implements pbconnect.FleetHandler.
func (s *Server) WatchRun(ctx context.Context, r *connect.Request[pb.WatchRunRequest], stream *connect.ServerStream[pb.RunEvent]) error {
	release, err := s.streaming()
	if err != nil {
		return err
	}
	defer release()
	if err = s.meet(ctx, r.Msg.GetId()); err != nil {
		return err
	}
	changed, stop := s.conf.Feed.WatchRun(r.Msg.GetId())
	defer stop()
	f := follower{server: s, id: r.Msg.GetId(), tell: func(e *pb.RunEvent) error { return send(ctx, stream, e) }}
	for {
		ended, followErr := f.step()
		if followErr != nil || ended {
			return followErr
		}
		select {
		case <-ctx.Done():
			return stopped()
		case <-changed:
		}
	}
}

// follower tells one watcher what is new about a run. It reads the state from
// where it last stopped, so a slow watcher misses nothing and holds nobody up.
type follower struct {
	server *Server
	id     string
	tell   func(*pb.RunEvent) error

	run      *pb.Run // as last told
	results  int     // told
	progress map[string]*pb.RackProgress
}

// step tells what is new: the run first if nothing was told yet, else last, so
// that a run that has ended comes after all its results.
func (f *follower) step() (ended bool, err error) {
	run, results, ok := f.server.conf.Machine.Run(f.id, f.results)
	if !ok {
		return false, noRun(f.id)
	}
	if f.run == nil {
		if err := f.state(run); err != nil {
			return false, err
		}
	}
	for _, res := range results {
		if err := f.tell(&pb.RunEvent{Body: &pb.RunEvent_Result{Result: res}}); err != nil {
			return false, err
		}
		f.results++
	}
	if err := f.news(); err != nil {
		return false, err
	}
	if f.run != run {
		if err := f.state(run); err != nil {
			return false, err
		}
	}
	return run.GetEndedUnixMs() != 0, nil
}

func (f *follower) state(run *pb.Run) error {
	f.run = run
	return f.tell(&pb.RunEvent{Body: &pb.RunEvent_Run{Run: withoutSource(run)}})
}

// news tells the progress that has changed.
func (f *follower) news() error {
	if f.progress == nil {
		f.progress = map[string]*pb.RackProgress{}
	}
	for _, p := range f.server.conf.Agents.Progress(f.id) {
		if proto.Equal(f.progress[p.GetRack()], p) {
			continue
		}
		f.progress[p.GetRack()] = p
		if err := f.tell(&pb.RunEvent{Body: &pb.RunEvent_Progress{Progress: p}}); err != nil {
			return err
		}
	}
	return nil
}

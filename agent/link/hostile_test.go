package link_test

import (
	"context"
	"sync"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
)

// hostile is a coordinator with the right certificate, that answers each hello as it
// likes and then says nothing more.
func (w *world) hostile(name string, answer func(mesh.Stream, *mesh.Channel) error) (addr string) {
	w.t.Helper()
	creds := w.credentials(trust.Identity{Role: trust.Coordinator, Name: name})
	listener, err := mesh.Listen("127.0.0.1:0", creds.Server(trust.Agent), &[32]byte{2})
	if err != nil {
		w.t.Fatal(err)
	}
	serve := func(conn mesh.Session) {
		stream, err := conn.Accept(context.Background())
		if err != nil {
			return
		}
		ch := mesh.NewChannel(stream, 0)
		var open pb.StreamOpen
		var hello pb.FromAgent
		if ch.Receive(&open) == nil && ch.Receive(&hello) == nil {
			_ = answer(stream, ch) // the agent may have left
		}
		<-conn.Done()
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept(context.Background())
			if err != nil {
				return
			}
			running.Go(func() { serve(conn) })
		}
	})
	w.t.Cleanup(func() {
		_ = listener.Close()
		running.Wait()
	})
	return listener.Addr()
}

// A coordinator that answers with what makes no sense, or falls silent, is left for the
// next one, and no record is lost or told twice.
func TestAHostileCoordinatorIsLeft(t *testing.T) {
	write := func(bytes ...byte) func(mesh.Stream, *mesh.Channel) error {
		return func(s mesh.Stream, _ *mesh.Channel) error {
			_, err := s.Write(bytes)
			return err
		}
	}
	welcome := func(change func(*pb.Welcome)) func(mesh.Stream, *mesh.Channel) error {
		return func(_ mesh.Stream, ch *mesh.Channel) error {
			m := &pb.Welcome{Version: 1, NextWanted: 1, Coordinator: "c8"}
			change(m)
			return ch.Send(&pb.FromCoordinator{Body: &pb.FromCoordinator_Welcome{Welcome: m}})
		}
	}
	for name, answer := range map[string]func(mesh.Stream, *mesh.Channel) error{
		"garbage":             write(0, 0, 0, 2, 0xff, 0xff),
		"an oversized frame":  write(0x7f, 0, 0, 0),
		"half a frame":        write(0, 0, 0, 9, 1),
		"no kind of answer":   write(0, 0, 0, 0),
		"another version":     welcome(func(m *pb.Welcome) { m.Version = 2 }),
		"welcome and silence": welcome(func(*pb.Welcome) {}),
		"hangs up": func(s mesh.Stream, _ *mesh.Channel) error {
			return s.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			good := w.coordinator("c1")
			good.refuse = &pb.Refusal{Kind: string(fault.Unavailable), Error: "not before the other was met"}
			bad := w.hostile("c8", func(s mesh.Stream, ch *mesh.Channel) error {
				good.set(func() { good.refuse = nil })
				return answer(s, ch)
			})
			w.add("a", "b")
			w.dial(bad, good.listener.Addr())
			good.session()
			w.add("c")
			w.expectRecorded(good, "a", "b", "c")
		})
	}
}

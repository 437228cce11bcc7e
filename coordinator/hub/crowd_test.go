package hub_test

import (
	"errors"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// One agent that connects again and again takes its own places and nobody else's.
func TestOneAgentManySessions(t *testing.T) {
	w := newWorld(t, 0)
	good := w.join("r1")
	var crowd []*agent
	for range 4 {
		crowd = append(crowd, w.dial("a-r2"))
	}
	for _, a := range crowd { // all are served: none has said hello, and none is refused
		if err := a.conn.Err(); err != nil {
			t.Fatal(err)
		}
	}
	<-w.session("a-r2").Done()
	good.fine()
	for _, a := range crowd {
		a.conn.Close("gone")
	}
	for { // as soon as their end is noticed
		back := w.session("a-r2")
		stream, err := back.Open(t.Context())
		if err != nil {
			continue
		}
		ch := mesh.NewChannel(stream, 0)
		err = errors.Join(ch.Send(&pb.StreamOpen{Kind: pb.StreamOpen_CONTROL}),
			ch.Send(&pb.FromAgent{Body: &pb.FromAgent_Hello{Hello: hello("a-r2", "r2")}}))
		var answer pb.FromCoordinator
		if err == nil && ch.Receive(&answer) == nil && answer.GetWelcome() != nil {
			return
		}
	}
}

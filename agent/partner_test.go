package agent

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
)

// linkOf is the pair link of an agent of that rack, with a real certificate.
func linkOf(t *testing.T, site *ca.Site, dir string, rack fleet.RackName, pair Pair, name string) *pairLink {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := site.Ensure(path, trust.Identity{Role: trust.Agent, Domain: trust.Domain{Rack: string(rack)}, Name: name}); err != nil {
		t.Fatal(err)
	}
	creds, err := trust.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return newPairLink(Config{Rack: rack, Pair: pair}, trust.NewEndpoint(creds, trust.Options{}))
}

// The two agents of a rack ask each other. Another agent of the same site, and one of
// the right name in another rack, gets no answer, and none is taken from it.
func TestOnlyThePartnerIsAsked(t *testing.T) {
	dir := t.TempDir()
	site, err := ca.Open(filepath.Join(dir, "ca"), "s1")
	if err != nil {
		t.Fatal(err)
	}
	const at = "127.0.0.1:0"
	addrs := freeAddr(t)
	a := linkOf(t, site, dir, "r1", Pair{Name: "b", Listen: addrs, Peer: at}, "a")
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- a.serve(ctx, func(context.Context, *pb.PairCall) *pb.PairReply {
			return &pb.PairReply{State: &pb.PairState{Agent: "a"}}
		})
	}()
	question := &pb.PairCall{Body: &pb.PairCall_State{State: &pb.PairState{}}}
	asks := func(l *pairLink) error {
		t.Helper()
		defer l.leave()
		for began := time.Now(); ; {
			asking, stop := context.WithTimeout(ctx, 2*time.Second)
			reply, no := l.Ask(asking, question)
			stop()
			if no == nil && reply.GetState().GetAgent() != "a" {
				t.Errorf("it answers %v", reply)
			}
			if no == nil || fault.Is(no, fault.Untrusted) || time.Since(began) > 6*time.Second {
				return no
			}
		}
	}
	if err = asks(linkOf(t, site, dir, "r1", Pair{Name: "a", Listen: at, Peer: addrs}, "b")); err != nil {
		t.Errorf("the partner: %v", err)
	}
	if err = asks(linkOf(t, site, dir, "r1", Pair{Name: "a", Listen: at, Peer: addrs}, "c")); err == nil {
		t.Error("another agent of the rack is answered")
	}
	err = asks(linkOf(t, site, dir, "r2", Pair{Name: "a", Listen: at, Peer: addrs}, "d"))
	if err == nil || !strings.Contains(err.Error(), "not a of rack r2") {
		t.Errorf("an agent of another rack is taken for the partner: %v", err)
	}
	cancel()
	if err = <-served; ctx.Err() == nil || err == nil {
		t.Error(err)
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	socket, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	return socket.LocalAddr().String()
}

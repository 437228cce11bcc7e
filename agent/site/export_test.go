package site

import (
	"testing"

	"github.com/hashicorp/memberlist"
	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const MaxOfOne = maxOfOne

// Kill ends an agent's sockets as the end of its machine does: nobody is told.
func Kill(s *Site) {
	s.close = func() error { return nil }
	s.ended.Store(true)
	_ = s.gossip.Shutdown()
	_ = s.listener.Close()
}

// Join is one attempt to join the agent at an address.
func Join(s *Site, at string) int {
	n, _ := s.gossip.Join([]string{at})
	return n
}

// Merge is what is said to a table of that size.
func Merge(s *Site, peers []*memberlist.Node) error { return (&delegate{s}).NotifyMerge(peers) }

// What the gossip tells of an agent is anybody's bytes.
func FuzzMeta(f *testing.F) {
	good, err := proto.Marshal(&pb.SiteMeta{Rack: "r17", Role: "standby", Epoch: 1 << 40, Calls: 7446, Key: []byte("12345678")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(b)
		if err == nil && (m.GetCalls() > 65535 || len(m.GetRole()) > maxRole || len(b) > maxMeta) {
			t.Errorf("%v is taken", m)
		}
	})
}

// The longest names fit into what one packet tells.
func TestMetaFits(t *testing.T) {
	name := string(make([]byte, 63))
	b, err := proto.Marshal(&pb.SiteMeta{Rack: name, Role: name[:maxRole], Epoch: 1<<64 - 1, Calls: 65535, Key: make([]byte, keyPrefix)})
	if err != nil || len(b) > maxMeta {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

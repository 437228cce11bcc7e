package hub_test

import (
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// Why an agent takes no new work is told to people, and in bounds.
func TestTheTroubleOfAnAgent(t *testing.T) {
	w := newWorld(t, time.Minute)
	a := w.join("r1")
	for trouble, want := range map[string]string{
		"the agent's disk is full": "the agent's disk is full",
		"":                         "",
		strings.Repeat("x", 5000):  strings.Repeat("x", 512),
	} {
		a.say(&pb.FromAgent{Body: &pb.FromAgent_Ping{Ping: &pb.Ping{Trouble: trouble}}})
		a.expect(func(m *pb.FromCoordinator) bool { return m.GetPong() != nil })
		if got := w.hub.Agents()[0].GetTrouble(); got != want {
			t.Errorf("of %.20q people are told %q", trouble, got)
		}
	}
}

package talk

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// A thousand agents spread evenly, and so do those of one that dies.
func TestPreferred(t *testing.T) {
	all := []string{"c1:7443", "c2:7443", "c3:7443"}
	first, next := map[string]int{}, map[string]int{}
	for i := range 1000 {
		order := Preferred(fleet.AgentName(fmt.Sprint("agent-", i)), all)
		if len(order) != 3 || order[0] == order[1] || order[1] == order[2] || order[0] == order[2] {
			t.Fatalf("the order is %v", order)
		}
		if again := Preferred(fleet.AgentName(fmt.Sprint("agent-", i)), []string{"c3:7443", "c1:7443", "c2:7443"}); !slices.Equal(again, order) {
			t.Errorf("another configuration gives %v, not %v", again, order)
		}
		first[order[0]]++
		if order[0] == "c1:7443" {
			next[order[1]]++
		}
	}
	for _, addr := range all {
		if n := first[addr]; n < 280 || n > 390 {
			t.Errorf("%s has %d agents of 1000", addr, n)
		}
	}
	if next["c2:7443"] < 120 || next["c3:7443"] < 120 {
		t.Errorf("those of c1 go to %v", next)
	}
}

// What goes over TCP is the last resort.
func TestTCPComesLast(t *testing.T) {
	for i := range 20 {
		order := Preferred(fleet.AgentName(fmt.Sprint("agent-", i)), []string{"tcp://c1:7445", "c1:7443", "tcp://c2:7445", "c2:7443"})
		if order[0][:3] == "tcp" || order[1][:3] == "tcp" {
			t.Errorf("the order is %v", order)
		}
	}
}

func TestBackoff(t *testing.T) {
	for _, c := range []struct {
		rounds int
		part   float64
		want   time.Duration
	}{
		{0, 1, 500 * time.Millisecond},
		{0, 0, 0},
		{1, 0.5, 500 * time.Millisecond},
		{3, 1, 4 * time.Second},
		{5, 1, 16 * time.Second},
		{6, 1, 30 * time.Second},
		{1 << 40, 0.5, 15 * time.Second},
	} {
		if got := Backoff(c.rounds, c.part); got != c.want {
			t.Errorf("Backoff(%d, %v) = %v, want %v", c.rounds, c.part, got, c.want)
		}
	}
}

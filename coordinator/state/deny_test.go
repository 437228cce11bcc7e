package state_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

func denyAt(at int64, subjects ...string) *pb.Command {
	var list []*pb.Denial
	for _, s := range subjects {
		list = append(list, &pb.Denial{Subject: s, Reason: "r", By: "ada", AtUnixMs: at})
	}
	return &pb.Command{Version: state.Version, AtUnixMs: 1000, Body: &pb.Command_Deny{Deny: &pb.Deny{Denials: list}}}
}

func allowAt(at int64, subject string) *pb.Command {
	return &pb.Command{Version: state.Version, AtUnixMs: at, Body: &pb.Command_Allow{Allow: &pb.Allow{Subject: subject, By: "ada"}}}
}

// The list is the union of what was ever told; the end of a denial is remembered
// against those who tell of it late.
func TestThreat38DenyList(t *testing.T) {
	m := state.New()
	index := uint64(0)
	apply := func(c *pb.Command) state.Outcome {
		t.Helper()
		index++
		o, err := m.Apply(index, c)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	list := func() string {
		var b strings.Builder
		for _, d := range m.Denied() {
			fmt.Fprintf(&b, "%s@%d ", d.GetSubject(), d.GetAtUnixMs())
		}
		return b.String()
	}
	for _, step := range []struct {
		what    string
		command *pb.Command
		kind    fault.Kind
		changed bool
		want    string
	}{
		{"one", denyAt(0, "agent/a"), "", true, "agent/a@1000 "},
		{"the same again, later", denyAt(2000, "agent/a"), "", false, "agent/a@1000 "},
		{"with another", denyAt(500, "agent/a", "spki/x"), "", true, "agent/a@1000 spki/x@500 "},
		{"allowed", allowAt(3000, "spki/x"), "", true, "agent/a@1000 "},
		{"allowed twice", allowAt(3000, "spki/x"), fault.NotFound, false, "agent/a@1000 "},
		{"told by one who was cut off", denyAt(500, "spki/x"), "", false, "agent/a@1000 "},
		{"denied anew", denyAt(3001, "spki/x"), "", true, "agent/a@1000 spki/x@3001 "},
		{"nobody", denyAt(1, ""), fault.BadInput, false, "agent/a@1000 spki/x@3001 "},
		{"allowed again", allowAt(4000, "spki/x"), "", true, "agent/a@1000 "},
		{"denied now, while the clock stands still", denyAt(0, "spki/x"), "", true, "agent/a@1000 spki/x@4001 "},
		{"a novel", &pb.Command{Version: state.Version, Body: &pb.Command_Deny{Deny: &pb.Deny{Denials: []*pb.Denial{{Subject: "agent/b", Reason: strings.Repeat("x", 2000)}}}}}, fault.TooLarge, false, "agent/a@1000 spki/x@4001 "},
	} {
		before := m.Counts().Revision
		o := apply(step.command)
		if fault.KindOf(o.Err) != step.kind || o.Denied != step.changed || list() != step.want || (m.Counts().Revision > before) != step.changed {
			t.Errorf("%s: %v, changed %v, list %s", step.what, o.Err, o.Denied, list())
		}
		m = again(t, m) // a restart between any two
		index = 0
	}
}

func TestDenyListIsBounded(t *testing.T) {
	m := state.New()
	subjects := make([]string, state.MaxDenied)
	for i := range subjects {
		subjects[i] = fmt.Sprintf("agent/a%d", i)
	}
	if o, err := m.Apply(1, denyAt(1, subjects...)); err != nil || o.Err != nil {
		t.Fatal(err, o.Err)
	}
	if o, _ := m.Apply(2, denyAt(1, "agent/more")); !fault.Is(o.Err, fault.TooLarge) {
		t.Errorf("one more: %v", o.Err)
	}
	if o, _ := m.Apply(3, denyAt(1, "agent/a0")); o.Err != nil {
		t.Errorf("one that is there: %v", o.Err)
	}
}

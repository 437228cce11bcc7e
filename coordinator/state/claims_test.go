package state_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// found is a BMC that is none of the fleet.
func found(name, is, pin string) *pb.Record {
	r := node(name, "")
	r.GetNode().State, r.GetNode().Trust = "stranger", &pb.BMCTrust{Pin: pin}
	r.GetNode().Admission = &pb.Admission{State: is}
	return r
}

// racks are two agents whose records are numbered by themselves.
type racks struct {
	*log
	next map[string]uint64
}

func newRacks(t *testing.T) *racks {
	t.Helper()
	l := &racks{newLog(t), map[string]uint64{"a1": 1, "a2": 1}}
	l.must(putAgent("a1", "r1"))
	l.must(putAgent("a2", "r2"))
	return l
}

func (l *racks) tell(rack string, records ...*pb.Record) state.Outcome {
	l.t.Helper()
	agent := strings.Replace(rack, "r", "a", 1)
	o := l.must(batch(agent, rack, l.next[agent], records...))
	l.next[agent] += uint64(len(records))
	return o
}

// conflicts are those of a rack's desired state, one in a line.
func (l *racks) conflicts(rack string) string {
	var all []string
	for _, c := range l.Desired(rack).GetConflicts() {
		all = append(all, fmt.Sprintf("%s %s of %s harms %s", c.GetWhat(), c.GetIs(), strings.Join(c.GetNodes(), " "), strings.Join(c.GetBad(), " ")))
	}
	return strings.Join(all, "\n")
}

func TestCandidatesAreNoNodes(t *testing.T) {
	l := newRacks(t)
	l.tell("r1", found("r1-x", "waiting", "sha256/x"), node("n1", "b1"))
	l.tell("r2", found("r2-y", "refused", "sha256/y"))
	names := func() (nodes, candidates string) {
		var all, others strings.Builder
		for _, n := range l.Nodes() {
			fmt.Fprintf(&all, "%s/%s ", n.GetRack(), n.GetName())
		}
		for _, n := range l.Candidates() {
			fmt.Fprintf(&others, "%s/%s %s ", n.GetRack(), n.GetName(), n.GetAdmission().GetState())
		}
		return all.String(), others.String()
	}
	if nodes, candidates := names(); nodes != "r1/n1 " || candidates != "r1/r1-x waiting r2/r2-y refused " {
		t.Errorf("nodes %s, candidates %s", nodes, candidates)
	}
	admitted := node("r1-x", "b2")
	admitted.GetNode().Admission = &pb.Admission{State: "admitted"}
	l.tell("r1", admitted)
	if nodes, candidates := names(); nodes != "r1/n1 r1/r1-x " || candidates != "r2/r2-y refused " {
		t.Errorf("admitted: nodes %s, candidates %s", nodes, candidates)
	}
	l.tell("r1", found("r1-x", "waiting", "sha256/x"))
	l.tell("r2", gone("r2-y"))
	if nodes, candidates := names(); nodes != "r1/n1 " || candidates != "r1/r1-x waiting " {
		t.Errorf("forgotten: nodes %s, candidates %s", nodes, candidates)
	}
}

func TestCandidatesOfARackAreBounded(t *testing.T) {
	l := newRacks(t)
	for i := range state.MaxFoundPerRack + 1 {
		o := l.tell("r1", found(fmt.Sprint("x", i), "waiting", fmt.Sprint("sha256/", i)))
		if full := i == state.MaxFoundPerRack; full != (len(o.Dropped) > 0) {
			t.Fatalf("candidate %d: %v", i, o.Dropped)
		}
	}
}

func TestWhatSeveralRacksClaim(t *testing.T) {
	pinned := func(name, pin string) *pb.Record {
		r := node(name, "b")
		r.GetNode().Trust = &pb.BMCTrust{Pin: pin}
		return r
	}
	serial := func(name, serial string, listed bool) *pb.Record {
		r := node(name, "b")
		r.GetNode().Serial = serial
		r.GetNode().Trust = &pb.BMCTrust{Elements: map[string]string{"trust.serial-confirmed": strconv.FormatBool(listed)}}
		return r
	}
	uuid := func(r *pb.Record) *pb.Record {
		if r.GetNode().GetAdmission() == nil {
			r.GetNode().Admission = &pb.Admission{State: "admitted"}
		}
		r.GetNode().Admission.Uuid = "U1"
		return r
	}
	for _, c := range []struct {
		name   string
		r1, r2 *pb.Record
		want1  string
		want2  string
	}{
		{"nothing in common", pinned("n1", "sha256/1"), pinned("n2", "sha256/2"), "", ""},
		{
			"a key that two nodes have harms both", pinned("n1", "sha256/1"), pinned("n2", "sha256/1"),
			"key sha256/1 of r1/n1 r2/n2 harms r1/n1 r2/n2", "key sha256/1 of r1/n1 r2/n2 harms r1/n1 r2/n2",
		},
		{"a node that another rack sees, too", pinned("n1", "sha256/1"), found("r2-x", "waiting", "sha256/1"), "", "key sha256/1 of r1/n1 r2/r2-x harms r2/r2-x"},
		{"a stranger that two racks see", found("r1-x", "waiting", "sha256/1"), found("r2-x", "waiting", "sha256/1"), "", ""},
		{"a serial that both tell", serial("n1", "s1", false), serial("n2", "S1", false), "serial S1 of r1/n1 r2/n2 harms r1/n1 r2/n2", "serial S1 of r1/n1 r2/n2 harms r1/n1 r2/n2"},
		{"a serial that one catalogue lists", serial("n1", "S1", true), serial("n2", "S1", false), "", "serial S1 of r1/n1 r2/n2 harms r2/n2"},
		{"a UUID that a stranger claims", uuid(pinned("n1", "sha256/1")), uuid(found("r2-x", "waiting", "sha256/2")), "", "UUID u1 of r1/n1 r2/r2-x harms r2/r2-x"},
	} {
		l := newRacks(t)
		l.tell("r1", c.r1)
		before := l.Counts().Revision
		o := l.tell("r2", c.r2)
		if diff := cmp.Diff([]string{c.want1, c.want2}, []string{l.conflicts("r1"), l.conflicts("r2")}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		var want []string
		for rack, text := range map[string]string{"r1": c.want1, "r2": c.want2} {
			if text != "" {
				want = append(want, rack)
			}
		}
		slices.Sort(want)
		if diff := cmp.Diff(want, o.Racks); diff != "" || (len(want) > 0) != (l.Counts().Revision > before) {
			t.Errorf("%s: told to pull (-want +got):\n%s", c.name, diff)
		}
		away := pb.Record{Body: &pb.Record_Node{Node: &pb.Node{Name: c.r1.GetNode().GetName(), State: "unreachable"}}}
		l.tell("r1", &away)
		if got := l.conflicts("r1") + l.conflicts("r2"); got != "" {
			t.Errorf("%s: one of them is away, and there is %s", c.name, got)
		}
	}
}

// The hub looks for a rack in a sorted list: a rack that stands elsewhere would not
// be told.
func TestRacksToBeToldAreSorted(t *testing.T) {
	l := newRacks(t)
	pinned := func(name string) *pb.Record {
		r := node(name, "b")
		r.GetNode().Trust = &pb.BMCTrust{Pin: "sha256/1"}
		return r
	}
	l.tell("r2", pinned("n2"))
	o := l.tell("r1", pinned("n1"), onRack(order.Standing, "fans", 11))
	if diff := cmp.Diff([]string{"r1", "r2"}, o.Racks); diff != "" {
		t.Errorf("racks to be told (-want +got):\n%s", diff)
	}
}

// BenchmarkPull is the desired state of a rack, as each asks for it once a minute. It
// must not cost more the more nodes others have.
func BenchmarkPull(b *testing.B) {
	for _, nodes := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			m, index := state.New(), uint64(0)
			apply := func(c *pb.Command) {
				c.Version = state.Version
				index++
				if _, err := m.Apply(index, c); err != nil {
					b.Fatal(err)
				}
			}
			apply(putAgent("a1", "r1"))
			apply(putAgent("a2", "r2"))
			for i := range nodes {
				n := node(fmt.Sprintf("n%d", i), "b")
				n.GetNode().Serial = fmt.Sprintf("SN%d", i)
				apply(batch("a1", "r1", uint64(i)+1, n))
			}
			for b.Loop() {
				m.Desired("r2")
			}
		})
	}
}

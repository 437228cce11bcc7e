package journal_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/agent/core"

	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// disk is a spool, and what its outbox says.
type disk struct {
	*testing.T
	*spool.Spool
}

func newDisk(t *testing.T) disk {
	t.Helper()
	s, err := spool.Open(filepath.Join(t.TempDir(), "spool"), spool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return disk{t, s}
}

func (d disk) do(fn func(tx *spool.Tx)) {
	d.Helper()
	err := d.Update(func(tx *spool.Tx) error {
		fn(tx)
		return nil
	})
	if err != nil {
		d.Fatal(err)
	}
}

// told is what the coordinators will hear, one record in a line.
func (d disk) told() string {
	d.Helper()
	c, err := d.Cursor()
	if err != nil {
		d.Fatal(err)
	}
	if c.First == c.Next {
		return ""
	}
	b, err := d.Batch(c.First, 1<<20)
	if err != nil {
		d.Fatal(err)
	}
	var lines []string
	for _, r := range b.GetRecords() {
		lines = append(lines, tell(r))
	}
	return strings.Join(lines, "\n")
}

func tell(r *pb.Record) string {
	switch b := r.GetBody().(type) {
	case *pb.Record_Result:
		return fmt.Sprintf("%s of %s on %s: %s", b.Result.GetStep(), b.Result.GetRun(), b.Result.GetNode(), b.Result.GetStatus())
	case *pb.Record_Accepted:
		return fmt.Sprintf("%s begins on %d nodes", b.Accepted.GetRun(), b.Accepted.GetNodes())
	case *pb.Record_Done:
		return strings.TrimSpace(fmt.Sprintf("%s is done: %d well, %d not %s", b.Done.GetRun(), b.Done.GetOk(), b.Done.GetFailed(), b.Done.GetError()))
	case *pb.Record_Firing:
		f := b.Firing
		parts := []string{fmt.Sprintf("%s on %s fires", f.GetRule(), f.GetNode())}
		for _, r := range f.GetResults() {
			parts = append(parts, r.GetStep()+" "+r.GetStatus())
		}
		if f.GetHeld() != "" {
			parts = append(parts, "held: "+f.GetHeld())
		}
		return strings.Join(parts, ", ")
	}
	return fmt.Sprint(r)
}

var run7 = &pb.Run{Id: "R7", StartedUnixMs: 1, Script: "reinstall", Version: 5}

func doing(d journal.Doing) string {
	return [...]string{"pass", "settle", "skip", "intend", "do"}[d]
}

// What is to be done about a unit, after all that can have happened to it before the
// process ended. What is done once is never done after an intent.
func TestAUnit(t *testing.T) {
	steps := map[string]func(tx *spool.Tx, u journal.Unit){
		"intended": func(tx *spool.Tx, u journal.Unit) { u.Intend(tx, journal.Unknown(u.Node, u.Text)) },
		"done":     func(tx *spool.Tx, u journal.Unit) { u.Record(tx, noon, result(u, fleet.Confirmed), journal.OK) },
		"missed": func(tx *spool.Tx, u journal.Unit) {
			u.Record(tx, noon, result(u, fleet.NotProvided), journal.Miss)
		},
		"failed": func(tx *spool.Tx, u journal.Unit) { u.Record(tx, noon, result(u, fleet.Failed), journal.Stop) },
	}
	for _, c := range []struct{ before, once, again, stopped string }{
		{"", "intend", "do", "skip"},
		{"intended", "settle unknown", "settle unknown", "settle unknown"},
		{"done", "pass +", "pass +", "pass +"},
		{"missed", "pass -", "pass -", "pass -"},
		{"failed", "pass !", "pass !", "pass !"},
		{"intended done", "pass +", "pass +", "pass +"},
		{"intended failed", "pass !", "pass !", "pass !"},
	} {
		t.Run("after "+c.before, func(t *testing.T) {
			d := newDisk(t)
			next := func(u journal.Unit, stopped bool) (got string) {
				d.do(func(tx *spool.Tx) {
					for step := range strings.FieldsSeq(c.before) {
						steps[step](tx, u)
					}
				})
				err := d.View(func(tx *spool.Tx) error {
					s, err := u.Next(tx, stopped)
					got = strings.TrimRight(fmt.Sprintf("%s %s%s", doing(s.Doing), strings.Trim(string(s.Was), "\x00"), s.Left.Status), " ")
					if untouched := u.Untouched(tx); untouched != (c.before == "") {
						t.Errorf("untouched: %v", untouched)
					}
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
				return got
			}
			unit := func(id string, once bool) journal.Unit {
				return journal.Unit{Run: run7, Node: "n1", ID: id, Text: "(reboot)", Once: once}
			}
			got := []string{next(unit("s0", true), false), next(unit("s1", false), false), next(unit("s2", true), true)}
			if diff := cmp.Diff([]string{c.once, c.again, c.stopped}, got); diff != "" {
				t.Errorf("once, any, stopped (-want +got):\n%s", diff)
			}
		})
	}
}

func result(u journal.Unit, s fleet.Status) []fleet.Result {
	return []fleet.Result{{Node: u.Node, Step: u.Text, Status: s}}
}

// A journal that can't be read stops the unit: to do it again could be wrong.
func TestASpoiledIntent(t *testing.T) {
	d := newDisk(t)
	u := journal.Unit{Run: run7, Node: "n1", ID: "s0", Text: "(reboot)", Once: true}
	d.do(func(tx *spool.Tx) {
		u.Intend(tx, journal.Unknown("n1", "(reboot)"))
		for key := range tx.All(spool.Intents, "") {
			tx.Put(spool.Intents, key, []byte{0xff})
		}
	})
	err := d.View(func(tx *spool.Tx) error {
		_, err := u.Next(tx, false)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "journal") {
		t.Errorf("it says %v", err)
	}
}

func TestAWalk(t *testing.T) {
	for _, c := range []struct{ marks, halt, stop, ok string }{
		{"", "", "", "well"},
		{"++", "", "", "well"},
		{"+-+", "", "", "not well"},
		{"+!", "", "not tried: an earlier step failed on this node", "not well"},
		{"+!+", "", "not tried: an earlier step failed on this node", "not well"},
		{"+", "it is none of the fleet", "it is none of the fleet", "well"},
		{"!", "it is none of the fleet", "not tried: an earlier step failed on this node", "not well"},
	} {
		var w journal.Walk
		for _, m := range c.marks {
			w.Passed(journal.Mark(m))
		}
		if c.halt != "" {
			w.Halt(errors.New(c.halt))
		}
		w.Halt(nil)
		stop, ok := "", "not well"
		if w.Stop() != nil {
			stop = w.Stop().Error()
		}
		if w.OK() {
			ok = "well"
		}
		if !strings.Contains(stop, c.stop) || (stop == "") != (c.stop == "") || ok != c.ok {
			t.Errorf("after %q and %q: %q, %s", c.marks, c.halt, stop, ok)
		}
	}
}

// A run from its acceptance to its end, and what is left of it then.
func TestARun(t *testing.T) {
	d := newDisk(t)
	u := journal.Unit{Run: run7, Node: "n1", ID: "s0", Text: "(reboot)", Once: true}
	expect := func(when string, fresh bool, accepted int, chosen bool) {
		t.Helper()
		err := d.View(func(tx *spool.Tx) error {
			all, err := journal.Accepted(tx)
			ids, known, choiceErr := journal.Chosen(tx, run7)
			if got := journal.Fresh(tx, run7); got != fresh || len(all) != accepted || known != chosen {
				t.Errorf("%s: fresh %v, accepted %d, chosen %v %v", when, got, len(all), known, ids)
			}
			if known && !ids["n1"]["s0"] {
				t.Errorf("%s: the choice is %v", when, ids)
			}
			return errors.Join(err, choiceErr)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	expect("at first", true, 0, false)
	d.do(func(tx *spool.Tx) { journal.Accept(tx, run7) })
	expect("accepted", false, 1, false)
	d.do(func(tx *spool.Tx) {
		journal.Choose(tx, noon, run7, journal.Choice{"n1": {"s0": true}})
		u.Intend(tx, journal.Unknown("n1", "(reboot)"))
	})
	expect("chosen", false, 1, true)
	d.do(func(tx *spool.Tx) {
		u.Record(tx, noon, result(u, fleet.Confirmed), journal.OK)
		journal.Finish(tx, noon, run7, &pb.RackRunDone{Run: "R7", Nodes: 1, Ok: 1})
	})
	expect("finished", false, 0, false)
	want := "R7 begins on 1 nodes\n(reboot) of R7 on n1: confirmed\nR7 is done: 1 well, 0 not"
	if diff := cmp.Diff(want, d.told()); diff != "" {
		t.Error(diff)
	}
	err := d.View(func(tx *spool.Tx) error {
		for _, table := range []spool.Table{spool.Runs, spool.Choices, spool.Done, spool.Intents} {
			for key := range tx.All(table, "") {
				t.Errorf("%s still holds %q", table, key)
			}
		}
		again := &pb.Run{Id: "R7", StartedUnixMs: 2}
		if !journal.Fresh(tx, again) {
			t.Error("a run of the same number, begun at another time, is another one")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestARefusedRun(t *testing.T) {
	d := newDisk(t)
	d.do(func(tx *spool.Tx) {
		journal.Refuse(tx, noon, run7, errors.New("version 5 is not newer than version 6"))
	})
	want := "R7 is done: 0 well, 0 not refused: version 5 is not newer than version 6"
	if diff := cmp.Diff(want, d.told()); diff != "" {
		t.Error(diff)
	}
	_ = d.View(func(tx *spool.Tx) error {
		if journal.Fresh(tx, run7) {
			t.Error("it is refused again each time it is listed")
		}
		return nil
	})
}

// An order that begins a run is obeyed once; one that puts a script into force may
// come again.
func TestAdmits(t *testing.T) {
	d := newDisk(t)
	d.do(func(tx *spool.Tx) {
		journal.Raise(tx, journal.FloorOfScript, "hot", 5, "digest")
		journal.Raise(tx, journal.FloorOfRun, "hot", 5, "")
		journal.Raise(tx, journal.FloorOfRun, "hot", 4, "") // an older one changes nothing
	})
	for _, c := range []struct {
		of, name string
		version  uint64
		hash     string
		want     bool
	}{
		{journal.FloorOfScript, "hot", 4, "digest", false},
		{journal.FloorOfScript, "hot", 5, "digest", true},
		{journal.FloorOfScript, "hot", 5, "other", false},
		{journal.FloorOfScript, "hot", 6, "other", true},
		{journal.FloorOfScript, "cold", 1, "", true},
		{journal.FloorOfRun, "hot", 4, "", false},
		{journal.FloorOfRun, "hot", 5, "", false},
		{journal.FloorOfRun, "hot", 6, "", true},
		{journal.FloorOfRun, "cold", 0, "", false},
		{journal.FloorOfRun, "cold", 1, "", true},
	} {
		_ = d.View(func(tx *spool.Tx) error {
			if got, floor := journal.Admits(tx, c.of, c.name, c.version, c.hash); got != c.want {
				t.Errorf("%s %s version %d %s: %v, the floor is %d", c.of, c.name, c.version, c.hash, got, floor)
			}
			return nil
		})
	}
}

// A coordinator that lags is not believed; one that goes on telling less was restored.
func TestPatience(t *testing.T) {
	var p journal.Patience
	var got []bool
	for _, told := range []uint64{9, 8, 8, 8, 8, 8, 9, 8} {
		got = append(got, p.Lags(9, told))
	}
	if want := []bool{false, true, true, true, false, false, false, true}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestTidy(t *testing.T) {
	d := newDisk(t)
	listed, old, young := &pb.Run{Id: "R1"}, &pb.Run{Id: "R2"}, &pb.Run{Id: "R3"}
	d.do(func(tx *spool.Tx) {
		journal.SetRevision(tx, 12)
		for r, days := range map[*pb.Run]int{listed: 90, old: 31, young: 29} {
			journal.Finish(tx, noon.Add(-time.Duration(days)*24*time.Hour), r, &pb.RackRunDone{Run: r.GetId()})
		}
		journal.Tidy(tx, noon, []*pb.Run{listed})
	})
	_ = d.View(func(tx *spool.Tx) error {
		for r, fresh := range map[*pb.Run]bool{listed: false, old: true, young: false} {
			if got := journal.Fresh(tx, r); got != fresh {
				t.Errorf("%s: forgotten %v, want %v", r.GetId(), got, fresh)
			}
		}
		if got := journal.Revision(tx); got != 12 {
			t.Errorf("the revision is %d", got)
		}
		return nil
	})
}

// Whatever of a firing is on disk when the process ends is told once.
func TestFirings(t *testing.T) {
	key := core.Key{Script: "hot", Rule: "r", Node: "n1"}
	firing := fleet.Firing{Script: "hot", Rule: "r", Node: "n1", At: noon}
	held := firing
	held.Held = "(cooldown 2m): it fired 1m ago"
	keep := func(f fleet.Firing) func(tx *spool.Tx) {
		out := core.Output{Changed: []core.State{{Key: key, Condition: "c", Armed: true}}, Fire: []core.Fire{{Firing: f}}}
		return func(tx *spool.Tx) {
			journal.KeepRules(tx, noon, out, func(f core.Fire) fleet.Firing {
				f.Firing.Results = []fleet.Result{{Step: "(reboot)", Status: fleet.Skipped}}
				return f.Firing
			})
		}
	}
	begin := func(tx *spool.Tx) {
		journal.IntendFiring(tx, journal.FiringKey(firing), firing, []fleet.Result{journal.Unknown("n1", "(reboot)")})
	}
	end := func(tx *spool.Tx) {
		f := firing
		f.Results = []fleet.Result{{Step: "(reboot)", Status: fleet.Confirmed}}
		journal.RecordFiring(tx, noon, journal.FiringKey(firing), f)
	}
	for _, c := range []struct {
		what  string
		steps []func(tx *spool.Tx)
		want  string
	}{
		{"it is held", []func(tx *spool.Tx){keep(held)}, "r on n1 fires, held: (cooldown 2m): it fired 1m ago"},
		{"it is not begun", []func(tx *spool.Tx){keep(firing)}, "r on n1 fires, (reboot) skipped"},
		{"it is begun", []func(tx *spool.Tx){keep(firing), begin}, "r on n1 fires, (reboot) unknown"},
		{"it is over", []func(tx *spool.Tx){keep(firing), begin, end}, "r on n1 fires, (reboot) confirmed"},
	} {
		t.Run(c.what, func(t *testing.T) {
			d := newDisk(t)
			for _, step := range c.steps {
				d.do(step)
			}
			for range 2 { // processes
				d.do(func(tx *spool.Tx) {
					if err := journal.Unfinished(tx, noon); err != nil {
						t.Error(err)
					}
				})
			}
			if diff := cmp.Diff(c.want, d.told()); diff != "" {
				t.Error(diff)
			}
			_ = d.View(func(tx *spool.Tx) error {
				states, err := journal.RuleStates(tx)
				if err != nil || len(states) != 1 || states[0].Key != key || !states[0].Armed {
					t.Errorf("the state of the rule is %v %v", states, err)
				}
				return nil
			})
			d.do(func(tx *spool.Tx) { journal.KeepRules(tx, noon, core.Output{Gone: []core.Key{key}}, nil) })
			_ = d.View(func(tx *spool.Tx) error {
				if states, _ := journal.RuleStates(tx); len(states) != 0 {
					t.Errorf("the state of a rule that is gone is kept: %v", states)
				}
				return nil
			})
		})
	}
}

// What the standby holds is what it needs to go on; what makes an agent itself stays.
func TestMirrored(t *testing.T) {
	for _, c := range []struct {
		table spool.Table
		key   string
		want  bool
	}{
		{spool.Runs, "R7", true},
		{spool.Intents, "x", true},
		{spool.Asked, "x", true},
		{spool.Notes, spool.Key(journal.EpochOf, "r1"), true},
		{spool.Done, "x", true},
		{spool.Takeovers, "n1", true},
		{spool.Secrets, "sha256/x", true},
		{spool.Secrets, journal.Passport + "twin", false},
		{spool.Notes, spool.Key("admission", "sha256/x"), true},
		{spool.Notes, spool.Key("accepted", "n1", "sha256/x"), true},
		{spool.Notes, "owner", false},
		{spool.Notes, "revision", false},
		{spool.Notes, journal.Policy, true},
		{spool.Scripts, "hot", true},
		{spool.Here, "hot", true},
		{spool.Sessions, "sha256/x", false},
		{spool.Table("outbox"), "x", false},
	} {
		if got := journal.Mirrored(c.table, c.key); got != c.want {
			t.Errorf("%s %q: %v", c.table, c.key, got)
		}
	}
}

func scriptRow(name string, version uint64) []byte {
	row, _ := proto.Marshal(&pb.Script{Name: name, Version: version})
	return row
}

// The newest order that either of a pair has seen is the newest one.
func TestOutdated(t *testing.T) {
	floor := func(version byte) []byte { return []byte{0, 0, 0, 0, 0, 0, 0, version} }
	d := newDisk(t)
	key := spool.Key(journal.FloorOfRun, "hot")
	d.do(func(tx *spool.Tx) {
		journal.Raise(tx, journal.FloorOfRun, "hot", 5, "")
		journal.Raise(tx, journal.FloorOfScript, "hot", 5, "")
		tx.Put(spool.Scripts, "cold", scriptRow("cold", 3))
	})
	for _, c := range []struct {
		what   string
		change spool.Change
		want   bool
	}{
		{"an older order", spool.Change{Table: spool.Floors, Key: key, Value: floor(4)}, true},
		{"none", spool.Change{Table: spool.Floors, Key: key}, true},
		{"the same", spool.Change{Table: spool.Floors, Key: key, Value: floor(5)}, false},
		{"a newer one", spool.Change{Table: spool.Floors, Key: key, Value: floor(6)}, false},
		{"one for another script", spool.Change{Table: spool.Floors, Key: "x", Value: floor(1)}, false},
		{"a script that an order has ended", spool.Change{Table: spool.Scripts, Key: "hot", Value: scriptRow("hot", 3)}, true},
		{"the script that stands", spool.Change{Table: spool.Scripts, Key: "cold", Value: scriptRow("cold", 3)}, true},
		{"a newer version of it", spool.Change{Table: spool.Scripts, Key: "cold", Value: scriptRow("cold", 4)}, false},
		{"that the owner does not have it", spool.Change{Table: spool.Scripts, Key: "cold"}, true},
		{"another table", spool.Change{Table: spool.Runs, Key: key}, false},
	} {
		_ = d.View(func(tx *spool.Tx) error {
			if got := journal.Outdated(tx, c.change); got != c.want {
				t.Errorf("%s: %v", c.what, got)
			}
			return nil
		})
	}
}

// A standby takes what follows from what it has. After a reign of its own it has
// nothing of the other one's: rows that it wrote itself are gone only with everything.
func TestAFollower(t *testing.T) {
	type share struct {
		life, from, to uint64
		all            bool
	}
	for _, c := range []struct {
		what  string
		took  []share
		reign bool
		next  share
		want  bool
	}{
		{"changes to one that has nothing", nil, false, share{life: 1, from: 3, to: 5}, false},
		{"everything", nil, false, share{life: 1, to: 5, all: true}, true},
		{"what follows", []share{{life: 1, to: 5, all: true}}, false, share{life: 1, from: 5, to: 6}, true},
		{"what was taken already", []share{{life: 1, to: 5, all: true}}, false, share{life: 1, from: 4, to: 6}, false},
		{"a gap", []share{{life: 1, to: 5, all: true}}, false, share{life: 1, from: 6, to: 7}, false},
		{"another life of the owner", []share{{life: 1, to: 5, all: true}}, false, share{life: 2, from: 5, to: 6}, false},
		{"what follows, after a reign of its own", []share{{life: 1, to: 5, all: true}}, true, share{life: 1, from: 5, to: 6}, false},
		{"everything, after a reign of its own", []share{{life: 1, to: 5, all: true}}, true, share{life: 1, to: 6, all: true}, true},
	} {
		var f journal.Follower
		for _, s := range c.took {
			f.Took(s.life, s.to)
		}
		if last, life := f.Held(); len(c.took) > 0 && (last != 5 || life != 1) {
			t.Errorf("%s: it says that it has change %d of life %d", c.what, last, life)
		}
		if c.reign {
			f.Own()
		}
		if got := f.Follows(c.next.life, c.next.from, c.next.all); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}

package wan

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/e2e/qemu/proc"
)

const fanRule = `(monitor "all" (trigger "fan" (cooldown 0s)
  (condition (event "*.PowerSupplyFanFailed")) (action (log "a fan failed"))))`

// A site is cut off from everybody while its rules fire, and so is another one whose
// agent is killed meanwhile: when the link is whole again every coordinator has every
// firing and every result once, in order, and the audit log has no gap.
func TestCutOffAndBack(t *testing.T) {
	w := newWorld(t, plan{cable: far()})
	w.must("apply", w.script("fan", fanRule))
	w.ready()
	apply := w.start("ops", "apply", "apply", "--yes", w.script("tag", waiting("tag")), "--state", w.path("fleet"))
	w.under("tag")

	fans := &fans{w: w, said: map[string]int{}}
	fans.fail("r01", "r02", "r03")
	w.fired(fans.said)
	w.cut("r01", "r02")
	deadline := time.Now().Add(pick(8*time.Second, time.Minute))
	for round := 0; time.Now().Before(deadline); round++ {
		fans.fail("r01", "r02", "r03")
		switch round {
		case 1:
			w.switchOn("r01", "r02", "r03") // what the run waits for
		case 3:
			w.kill("agent-r02")
			fans.fail("r01", "r02") // the BMC remembers for it
			w.startAgent("r02")
		}
		w.pause(pick(500*time.Millisecond, 2*time.Second))
	}
	w.heal(far(), "r01", "r02")
	w.linked(racks...)
	w.fired(fans.said)
	w.once("tag")
	w.done(apply)
	w.audited()
}

// waiting is a script that sets a tag on all, and whose run ends when the last server
// of every rack is on.
func waiting(tag string) string {
	last := make([]string, len(racks))
	for i, r := range racks {
		last[i] = strconv.Quote(nodeName(r, perRack))
	}
	return fmt.Sprintf(`(config "all" (asset-tag %q))
(action (%s) (wait (= power.state "on") (timeout 10m)))`, tag, strings.Join(last, " "))
}

// ready waits until every server is ready and its BMC is ours, and switches the last
// one of every rack off.
func (w *world) ready() {
	w.t.Helper()
	w.until("all BMCs are ours", func() bool {
		var bmcs []struct{ Done bool }
		w.decodeMaybe(&bmcs, "get", "bmcs")
		ours := 0
		for _, b := range bmcs {
			if b.Done {
				ours++
			}
		}
		return ours == perRack*len(racks)
	})
	for _, r := range racks {
		w.sim(r, "set", nodeName(r, perRack), "power.state", "off")
	}
	w.say("%d BMCs are ours", perRack*len(racks))
}

func (w *world) switchOn(names ...string) {
	for _, r := range names {
		w.sim(r, "set", nodeName(r, perRack), "power.state", "on")
	}
}

// fans fail, one after the other, each with a number of its own in its rack.
type fans struct {
	w    *world
	said map[string]int // by rack
}

func (f *fans) fail(names ...string) {
	for _, rack := range names {
		f.said[rack]++
		n := f.said[rack]
		f.w.sim(rack, "log", nodeName(rack, 1+n%perRack), "PowerSupplyFanFailed", fmt.Sprintf("fan %d.", n))
	}
}

var fanNumber = regexp.MustCompile(`fan (\d+)\.`)

// fired waits until every coordinator has that many firings of each rack, and checks
// that each is there once, in the order in which its server told of it, with its result.
func (w *world) fired(want map[string]int) {
	w.t.Helper()
	total := 0
	for _, n := range want {
		total += n
	}
	for _, c := range coordinators {
		var list []json.RawMessage
		w.until(fmt.Sprintf("%s has %d firings", c, total), func() bool {
			return w.decodeMaybe(&list, "get", "firings", "--consistency", "stale", "--state", w.path("ask-"+c)) && len(list) >= total
		})
		w.check(c, list, want)
	}
	w.say("every coordinator has %d firings once, in order", total)
}

func (w *world) check(at string, list []json.RawMessage, want map[string]int) {
	w.t.Helper()
	seen := map[string][]int{}
	for _, raw := range list {
		var f struct {
			Node    string
			Results []struct{ Status string }
		}
		number := fanNumber.FindSubmatch(raw)
		if err := json.Unmarshal(raw, &f); err != nil || number == nil {
			w.t.Fatalf("%s: %v: %s", at, err, raw)
		}
		n, _ := strconv.Atoi(string(number[1]))
		seen[f.Node] = append(seen[f.Node], n)
		if len(f.Results) != 1 || f.Results[0].Status != "confirmed" {
			w.t.Errorf("%s: a firing has other results than one: %s", at, raw)
		}
	}
	whole := map[string][]int{}
	for rack, fans := range want {
		for n := 1; n <= fans; n++ {
			node := nodeName(rack, 1+n%perRack)
			whole[node] = append(whole[node], n)
		}
	}
	if diff := cmp.Diff(whole, seen); diff != "" {
		w.t.Errorf("firings at %s (-want +got):\n%s", at, diff)
	}
}

// done waits until a command has ended, which must be well.
func (w *world) done(p *proc.Process) {
	w.t.Helper()
	w.until(p.Name()+" ends", func() bool {
		select {
		case <-p.Done():
			return true
		default:
			return false
		}
	})
	if err := p.Stop(0); err != nil {
		w.t.Errorf("%s: %v\n%s", p.Name(), err, p.Tail(30))
	}
}

type run struct {
	ID, Script, State string
	Results           []struct{ Node, Step, Path, Status string }
}

// under waits until the script's run is under way.
func (w *world) under(script string) {
	w.t.Helper()
	w.until("the run is under way", func() bool {
		var runs []run
		w.decodeMaybe(&runs, "get", "runs")
		return slices.ContainsFunc(runs, func(r run) bool { return r.Script == script && r.State == "running" })
	})
}

// once waits for the end of the script's run at every coordinator, and checks that it
// ran once and has one result for each step of every node.
func (w *world) once(script string) {
	w.t.Helper()
	for _, c := range coordinators {
		var whole run
		w.until("the run of "+script+" is over at "+c, func() bool {
			var runs []run
			w.decodeMaybe(&runs, "get", "runs", "--consistency", "stale", "--state", w.path("ask-"+c))
			runs = slices.DeleteFunc(runs, func(r run) bool { return r.Script != script })
			return len(runs) == 1 && runs[0].State != "running" &&
				w.decodeMaybe(&whole, "get", "run", runs[0].ID, "--consistency", "stale", "--state", w.path("ask-"+c))
		})
		seen := map[string]int{}
		for _, r := range whole.Results {
			seen[r.Node+" "+r.Path+" "+r.Status]++
		}
		want := map[string]int{}
		for _, rack := range racks {
			for n := range perRack {
				want[nodeName(rack, n+1)+" asset-tag confirmed"] = 1
			}
			want[nodeName(rack, perRack)+"  confirmed"] = 1
		}
		if diff := cmp.Diff(want, seen); diff != "" || whole.State != "done" {
			w.t.Errorf("%s at %s is %s (-want +got):\n%s", script, c, whole.State, diff)
		}
	}
	w.say("every coordinator has one result of every step of %s", script)
}

// audited verifies the audit log as a person does, at every coordinator, and that all
// have the same.
func (w *world) audited() {
	w.t.Helper()
	var first, log []any
	for i, c := range coordinators {
		w.decode(&log, "audit", "log", "--state", w.path("ask-"+c))
		if i == 0 {
			first = log
		}
		if diff := cmp.Diff(first, log); diff != "" {
			w.t.Errorf("the audit logs of %s and %s differ:\n%s", coordinators[0], c, diff)
		}
		w.must("audit", "verify", "--state", w.path("ask-"+c))
	}
	w.say("the audit log of %d records holds at every coordinator", len(first))
}

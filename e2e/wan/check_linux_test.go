package wan

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/e2e/qemu/proc"
)

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
	w.shown.firings = total
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
	w.shown.results += len(racks) * (perRack + 1)
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
	w.shown.records += len(first)
}

// sameAsOnTheRacks checks that what a rack did while it was alone is told by every
// coordinator as the rack itself tells it: its firings in their order, and each run of
// a person there.
func (d *cutDrill) sameAsOnTheRacks() {
	d.t.Helper()
	results := 0
	for _, r := range racks {
		var fired []any
		var runs []run
		d.localDecode(&fired, r, "get", "firings")
		d.localDecode(&runs, r, "get", "runs")
		runs = slices.DeleteFunc(runs, func(one run) bool { return !strings.HasSuffix(one.Script, "-"+r) })
		if len(runs) != len(d.here[r]) {
			d.t.Errorf("%s has %d runs of people there, want %d: %+v", r, len(runs), len(d.here[r]), runs)
		}
		for _, c := range coordinators {
			asks := []string{"--consistency", "stale", "--state", d.path("ask-" + c)}
			var all, ours []any
			d.decode(&all, append([]string{"get", "firings"}, asks...)...)
			for _, f := range all {
				if node, _ := f.(map[string]any)["node"].(string); strings.HasPrefix(node, r+"-") {
					ours = append(ours, f)
				}
			}
			if diff := cmp.Diff(fired, ours); diff != "" {
				d.t.Errorf("firings on %s (-) and at %s (+):\n%s", r, c, diff)
			}
			for _, one := range runs {
				var there, here run
				d.localDecode(&there, r, "get", "run", one.ID)
				d.until(one.ID+" is over at "+c, func() bool {
					return d.decodeMaybe(&here, append([]string{"get", "run", one.ID}, asks...)...) && here.State != "running"
				})
				if diff := cmp.Diff(there, here); diff != "" || len(here.Results) != 1 || here.Results[0].Status != "confirmed" {
					d.t.Errorf("%s on %s (-) and at %s (+):\n%s", one.ID, r, c, diff)
				}
				results += len(here.Results)
			}
		}
	}
	d.say("every coordinator tells of %d firings and %d results as the racks do, in their order", d.fans.total(), results/len(coordinators))
	d.shown.results += results / len(coordinators)
}

// audit checks that the audit log has every order of a person on a rack once, in the
// order in which they were given there.
func (d *cutDrill) audit() {
	d.t.Helper()
	var log []struct{ By, What, Subject string }
	d.decode(&log, "audit", "log")
	told := map[string][]string{}
	for _, r := range log {
		if verb, is := strings.CutSuffix(r.What, " on the rack"); is {
			rack := strings.TrimPrefix(r.By, "agent agent-")
			told[rack] = append(told[rack], verb+" "+r.Subject)
		}
	}
	if diff := cmp.Diff(d.here, told); diff != "" {
		d.t.Errorf("orders on the racks, in the audit log (-want +got):\n%s", diff)
	}
}

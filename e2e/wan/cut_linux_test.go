package wan

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const fanRule = `(monitor "all" (trigger "fan" (cooldown 0s)
  (condition (event "*.PowerSupplyFanFailed")) (action (log "a fan failed"))))`

// The WAN is cut between every rack and everybody else, while rules fire, a run is
// under way and a person on each rack gives orders there. All of them go on. When it
// is whole again every coordinator has every firing and every result once, in order,
// and the audit log is whole.
func TestWANCut(t *testing.T) {
	for _, v := range []cutDrill{
		{name: "plain"},
		{name: "the agent killed", killed: "r02"},
		{name: "the disk full", full: "c2"},
		{name: "everybody alone", alone: true},
	} {
		t.Run(v.name, func(t *testing.T) {
			if v.killed == "" {
				long(t)
			}
			v.world = newWorld(t, plan{cable: far(), small: v.full})
			v.fans = &fans{w: v.world, said: map[string]int{}}
			v.play()
		})
	}
}

// cutDrill is one way to suffer the cut.
type cutDrill struct {
	name   string
	killed string // the rack whose agent is killed, and starts again, while cut off
	full   string // the coordinator that leads and has no room, from before the cut until after it
	alone  bool   // the coordinators are cut off from each other, too

	*world
	fans *fans
	here map[string][]string // what was done on each rack, as the audit log tells it
}

func (d *cutDrill) play() {
	d.t.Helper()
	d.must("apply", d.script("fan", fanRule))
	d.ready()
	apply := d.start("ops", "apply", "apply", "--yes", d.script("tag", waiting("tag")), "--state", d.path("fleet"))
	d.under("tag")
	d.fans.fail(racks...)
	d.fired(d.fans.said)
	release := func() {}
	if d.full != "" {
		d.lead(d.full, true)
		release = fill(d.t, d.path(d.full, "log"))
		d.say("the disk of %s, which leads, is full", d.full)
	}
	away := slices.Clone(racks)
	if d.alone {
		away = append(away, coordinators...)
	}
	d.cut(away...)
	d.suffer()
	d.heal(far(), away...)
	if d.full != "" {
		d.linked(racks...)
		d.fans.fail(racks...) // while the others have it recorded
		d.say("the disk of %s has room again", d.full)
		release()
		d.revive(d.full)
	}
	d.linked(racks...)
	d.fired(d.fans.said)
	d.sameAsOnTheRacks()
	d.once("tag")
	d.done(apply)
	d.audited()
	d.audit()
}

// suffer is what happens while the WAN is cut.
func (d *cutDrill) suffer() {
	d.t.Helper()
	deadline := time.Now().Add(pick(8*time.Second, time.Minute))
	for round := 0; round < 5 || time.Now().Before(deadline); round++ {
		d.fans.fail(racks...)
		switch round {
		case 1:
			d.switchOn(racks...) // what the run waits for
			d.locally("before", 2)
		case 2:
			if d.killed != "" {
				d.kill("agent-" + d.killed)
				d.fans.fail(racks...) // its BMCs remember for it
				d.startAgent(d.killed)
			}
		case 3:
			if !d.alone {
				d.must("trust", "deny", "serial/77", "--reason", "they go on deciding")
			}
		case 4:
			d.locally("after", 3)
		}
		d.pause(pick(500*time.Millisecond, 2*time.Second))
	}
	d.until("every rule has fired on its rack", func() bool { return d.onRacks() == d.fans.total() })
	d.say("the racks alone: %d firings, and %d orders of people there", d.fans.total(), len(racks)*len(d.here[racks[0]]))
}

// locally has a person on each rack put something of its nth server into force, and do
// something once to the one before.
func (d *cutDrill) locally(when string, nth int) {
	d.t.Helper()
	if d.here == nil {
		d.here = map[string][]string{}
	}
	for _, r := range racks {
		led, boot := fmt.Sprintf("led-%s-%s", when, r), fmt.Sprintf("boot-%s-%s", when, r)
		d.local(r, "apply", "--yes", d.script(led, fmt.Sprintf(`(action %q (set-indicator on))`, nodeName(r, nth-1))))
		d.local(r, "apply", "--yes", d.script(boot, fmt.Sprintf(`(config %q (boot (target pxe)))`, nodeName(r, nth))))
		d.here[r] = append(d.here[r], "run script "+led, "apply script "+boot)
	}
}

// local runs a command at a rack, through the door of its agent.
func (w *world) local(rack string, args ...string) string {
	w.t.Helper()
	got := w.runAt(rack, append([]string{"--agent=" + w.path(rack, "agent.sock")}, args...)...)
	if got.err != nil {
		w.t.Fatalf("%v\n%s%s", got.err, got.stdout, got.stderr)
	}
	return got.stdout
}

func (w *world) localDecode(v any, rack string, args ...string) {
	w.t.Helper()
	if out := w.local(rack, append(args, "-o", "json")...); json.Unmarshal([]byte(out), v) != nil {
		w.t.Fatalf("on %s chiba %v says:\n%s", rack, args, out)
	}
}

// onRacks is how many firings the racks know of.
func (d *cutDrill) onRacks() (total int) {
	for _, r := range racks {
		var list []json.RawMessage
		d.localDecode(&list, r, "get", "firings")
		total += len(list)
	}
	return total
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

func (f *fans) total() (n int) {
	for _, said := range f.said {
		n += said
	}
	return n
}

func (f *fans) fail(names ...string) {
	for _, rack := range names {
		f.said[rack]++
		n := f.said[rack]
		f.w.sim(rack, "log", nodeName(rack, 1+n%perRack), "PowerSupplyFanFailed", fmt.Sprintf("fan %d.", n))
	}
}

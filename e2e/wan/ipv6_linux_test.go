package wan

import "testing"

// A coordinator and a rack have IPv6 alone, all others both: the group is whole, and
// the rack can be led by any coordinator. Then the others are cut off from those, and
// come back.
func TestSiteWithIPv6Alone(t *testing.T) {
	long(t)
	w := newWorld(t, plan{cable: far(), only6: "c3 r03"})
	w.must("apply", w.script("fan", fanRule))
	w.ready()
	fans := &fans{w: w, said: map[string]int{}}
	for _, c := range coordinators { // each is without the agents' first choice once
		w.kill(c)
		w.linked(racks...)
		fans.fail(racks...)
		w.startCoordinator(c)
		w.said(c, 0, "coordinator ready")
	}
	w.cut("c3", "r03")
	fans.fail(racks...)
	w.must("apply", "--yes", w.script("tag", `(config (rack "r01") (asset-tag "without IPv6"))`))
	w.heal(far(), "c3", "r03")
	w.linked(racks...)
	w.fired(fans.said)
	w.audited()
}

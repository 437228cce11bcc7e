package wan

import "testing"

// A site begins to block UDP: its agent goes on over TCP, by itself, and what happened
// meanwhile is recorded once.
func TestSiteThatBlocksUDP(t *testing.T) {
	long(t)
	w := newWorld(t, plan{cable: far()})
	w.must("apply", w.script("fan", fanRule))
	w.ready()
	fans := &fans{w: w, said: map[string]int{}}
	fans.fail(racks...)
	w.fired(fans.said)
	blocked := far()
	blocked.Block = udp
	from := w.procs["agent-r01"].Lines()
	w.heal(blocked, "r01")
	fans.fail(racks...)
	w.said("agent-r01", from, `msg="linked to a coordinator" agent=agent-r01 addr=tcp://`)
	w.say("the agent goes over TCP")
	fans.fail(racks...)
	w.linked(racks...)
	w.fired(fans.said)
	w.must("apply", "--yes", w.script("tag", `(config (rack "r01") (asset-tag "over TCP"))`))
	w.must("show", nodeName("r01", 1), "power.state")
	w.audited()
}

// udp reports whether an Ethernet frame holds UDP, in IPv4 or IPv6.
func udp(frame []byte) bool {
	const protocol = 17
	if len(frame) < 34 {
		return false
	}
	switch [2]byte(frame[12:14]) {
	case [2]byte{0x08, 0x00}:
		return frame[23] == protocol
	case [2]byte{0x86, 0xdd}:
		return frame[20] == protocol
	default:
		return false
	}
}

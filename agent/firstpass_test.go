package agent

import "testing"

// Who waits for the first look while a reign begins waits for the look of that reign,
// and not for one that has ended unseen: a question to a standby that takes over is
// answered.
func TestWaitingForTheFirstLookAcrossReigns(t *testing.T) {
	a, b := &node{}, &node{}
	var pass firstPass
	pass.await([]*node{a, b})
	asked := pass.ended()
	pass.reached(a)
	pass.await([]*node{a, b})
	over := func() bool {
		select {
		case <-asked:
			return true
		default:
			return false
		}
	}
	pass.reached(b)
	if over() || pass.isOver() {
		t.Error("what the reign before has seen counts")
	}
	pass.reached(a)
	if !over() || !pass.isOver() {
		t.Error("who asked before the reign waits for ever")
	}
	pass.await([]*node{a})
	if pass.isOver() {
		t.Error("a new reign has looked at nothing yet")
	}
}

package wan

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// outageGoal is the longest time without a write when a leader dies, beside that which
// two writes take on this machine when nobody does: the one before and the one after. A
// short run shares its machine with others and allows for that.
const outageGoal = 2 * time.Second

// write commits something.
func (w *world) write() outcome { return w.run("get", "scripts", "--consistency", "linearizable") }

// The leader is killed amid an apply to all racks, over 50 ms and 1 % of loss: the
// command ends well, every node has each result once at every coordinator, and the
// others decide soon.
func TestLeaderKilledDuringApply(t *testing.T) {
	w := newWorld(t, plan{cable: far()})
	w.ready()
	for round := range pick(1, 5) {
		tag := fmt.Sprintf("tag%d", round)
		apply := w.start("ops", "apply", "apply", "--yes", w.script(tag, waiting(tag)), "--state", w.path("fleet"))
		w.under(tag)
		began := time.Now()
		w.write()
		usual := time.Since(began)
		stop := w.writes()
		w.pause(time.Second)
		victim := w.leader()
		w.kill(victim)
		w.until("another leads", func() bool { return w.leader() != victim })
		w.switchOn(racks...)
		w.done(apply)
		longest, writes := stop()
		w.say("round %d: %d writes, the longest time between two was %s; one takes %s", round, writes, longest.Round(10*time.Millisecond), usual.Round(10*time.Millisecond))
		if limit := pick(outageGoal+3*time.Second, outageGoal) + 2*usual; longest > limit {
			t.Errorf("nothing was written for %s, more than %s", longest, limit)
		}
		w.startCoordinator(victim)
		w.linked(racks...)
		w.once(tag)
		for _, r := range racks {
			w.sim(r, "set", nodeName(r, perRack), "power.state", "off")
		}
	}
	w.audited()
}

// writes commits something again and again, by several at once, until stop is called,
// which tells the longest time in which nothing was done, and how often it was.
func (w *world) writes() (stop func() (longest time.Duration, writes int)) {
	const writers = 3
	end, done := make(chan struct{}), make(chan time.Time, 10_000)
	began := time.Now()
	var writing sync.WaitGroup
	for range writers {
		writing.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
				}
				if got := w.write(); got.err != nil {
					w.t.Errorf("a write: %v\n%s", got.err, got.stderr)
				}
				done <- time.Now()
			}
		})
	}
	return func() (longest time.Duration, writes int) {
		close(end)
		writing.Wait()
		close(done)
		for at, last := range after(done, began) {
			longest, writes = max(longest, at.Sub(last)), writes+1
		}
		return longest, writes
	}
}

// after are the times, each with the one before it.
func after(times <-chan time.Time, last time.Time) func(yield func(at, last time.Time) bool) {
	return func(yield func(at, last time.Time) bool) {
		for at := range times {
			if !yield(at, last) {
				return
			}
			last = at
		}
	}
}

// A coordinator is stopped as a machine that hangs is, leader or not, for longer than
// the others wait for it, and goes on later as if nothing had been: nothing that was
// decided is lost or is there twice.
func TestCoordinatorThatHangs(t *testing.T) {
	long(t)
	w := newWorld(t, plan{cable: far()})
	w.must("apply", w.script("fan", fanRule))
	w.ready()
	fans := &fans{w: w, said: map[string]int{}}
	for round := range 4 {
		hung := w.leader()
		if round%2 == 1 {
			hung = coordinators[(strings.Index("123", hung[1:])+1)%len(coordinators)]
		}
		w.signal(hung, unix.SIGSTOP)
		w.say("%s hangs", hung)
		for range 10 {
			fans.fail(racks...)
			w.pause(2 * time.Second)
		}
		tag := fmt.Sprintf("tag%d", round)
		w.must("apply", w.script(tag, fmt.Sprintf(`(config "all" (asset-tag %q))`, tag)), "--yes")
		w.signal(hung, unix.SIGCONT)
		w.say("%s goes on", hung)
		w.linked(racks...)
		w.fired(fans.said)
	}
	w.audited()
}

// A coordinator is cut off from the others but not from its agent: the agent moves by
// itself to one that is led, and what its rules did is recorded.
func TestCoordinatorWithoutMajority(t *testing.T) {
	long(t)
	w := newWorld(t, plan{cable: far()})
	w.must("apply", w.script("fan", fanRule))
	w.ready()
	fans := &fans{w: w, said: map[string]int{}}
	for _, lonely := range coordinators {
		w.signal(others(lonely)[0], unix.SIGSTOP)
		w.signal(others(lonely)[1], unix.SIGSTOP)
		w.pause(20 * time.Second) // nobody leads, for longer than agents bear
		fans.fail(racks...)
		w.signal(others(lonely)[0], unix.SIGCONT)
		w.cut(lonely)
		w.signal(others(lonely)[1], unix.SIGCONT)
		w.linked(racks...)
		fans.fail(racks...)
		w.heal(far(), lonely)
		w.linked(racks...)
		w.fired(fans.said)
	}
	w.audited()
}

func others(than string) []string {
	return slices.DeleteFunc(slices.Clone(coordinators), func(c string) bool { return c == than })
}

package sim

import (
	"math/rand/v2"
	"time"
)

// bmc is a server's BMC as a state machine: it restarts the server, keeps a boot
// target, and has a will of its own. It may hang, restart in the middle of a
// request, lose an answer, be slow, and say "done" of what it has not done.
type bmc struct {
	w      *World
	rnd    *rand.Rand
	target string // of the next boot

	hangs, slow, lies time.Duration // until
	restarts          int           // of the server
	acts              map[string]int
}

// The commands of the simulated scripts: one that must be done once, one that may be
// done again.
const (
	reboot  = "reboot"
	setBoot = "boot"
)

// ask sends a command to the BMC, for the unit that is called so. answer is called
// at most once; a caller that hears nothing has to give up by itself.
func (b *bmc) ask(command, unit string, answer func(ok bool)) {
	took := time.Duration(50+b.rnd.IntN(400)) * time.Millisecond
	if b.slow > b.w.now {
		took += time.Duration(b.rnd.IntN(30)) * time.Second
	}
	b.w.after(took, func() {
		if b.hangs > b.w.now {
			return
		}
		if lie := b.lies > b.w.now && b.rnd.IntN(2) == 0; !lie {
			b.act(command, unit)
		}
		if b.rnd.IntN(50) == 0 {
			return // the answer is lost
		}
		b.w.after(time.Duration(1+b.rnd.IntN(20))*time.Millisecond, func() { answer(b.rnd.IntN(40) != 0) })
	})
}

func (b *bmc) act(command, unit string) {
	switch command {
	case reboot:
		b.restarts++
		if b.acts == nil {
			b.acts = map[string]int{}
		}
		b.acts[unit]++
		b.w.acted(unit, b.acts[unit])
	case setBoot:
		b.target = unit
	}
}

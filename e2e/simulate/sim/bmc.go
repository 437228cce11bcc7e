package sim

import (
	"math/rand/v2"
	"time"

	"github.com/chiba-mesh/chiba/agent/owner"
)

// bmc is a server's BMC as a state machine: it restarts the server, keeps a boot
// target and accounts, and has a will of its own. It may hang, restart in the middle
// of a request, lose an answer, be slow, and say "done" of what it has not done.
type bmc struct {
	w      *World
	rack   string
	rnd    *rand.Rand
	target string          // of the next boot
	reader map[string]bool // accounts, each an agent's, that may only read

	hangs, slow, lies time.Duration // until
	restarts          int           // of the server
	acts              map[string][]act
	highest           owner.Claim // under which was written, or the other shut out
}

// act is something that was done that must be done once.
type act struct {
	by     *agent
	copies int  // of its disk
	pair   int  // of both disks
	shared bool // the standby knew of it
}

// The commands of the simulated scripts: one that must be done once, one that may be
// done again.
const (
	reboot  = "reboot"
	setBoot = "boot"
)

// answer is what a caller hears of a request.
type answer int

const (
	done    answer = iota
	refused        // for a reason of its own
	denied         // 403: the account may only read
	silent         // nothing was heard in time
)

// demand is a request.
type demand struct {
	as    string // the account
	from  *agent
	looks bool   // and changes nothing
	do    func() // what the BMC does at once
	// A command takes its time, and may be lied about.
	command, unit string
	shared        bool
	epoch         owner.Claim
}

// onTheWay is how long a request is: in a rack it is not far.
const onTheWay = time.Millisecond

// ask sends a request to the BMC. answer is called at most once; a caller that hears
// nothing has to give up by itself. Who may do it is decided when it arrives, as
// OpenBMC does.
func (b *bmc) ask(o demand, answer func(answer)) {
	took := time.Duration(50+b.rnd.IntN(400)) * time.Millisecond
	if b.slow > b.w.now {
		took += time.Duration(b.rnd.IntN(30)) * time.Second
	}
	b.w.after(onTheWay, func() {
		if b.hangs > b.w.now || b.w.net.cut(o.from.name, b.rack) {
			return
		}
		said := done
		switch {
		case !o.looks && b.reader[o.as]:
			said = denied
		case o.do != nil:
			o.do()
		default:
			b.w.judge.writes(b, o)
		}
		b.w.after(took, func() { b.work(o, said, answer) })
	})
}

// work is what a BMC does with a request that has arrived.
func (b *bmc) work(o demand, said answer, answer func(answer)) {
	if b.hangs > b.w.now {
		return
	}
	if o.command != "" && said == done {
		if lie := b.lies > b.w.now && b.rnd.IntN(2) == 0; !lie {
			b.act(o)
		}
		if b.rnd.IntN(40) == 0 {
			said = refused
		}
	}
	if b.rnd.IntN(50) == 0 {
		return // the answer is lost
	}
	b.w.after(time.Duration(1+b.rnd.IntN(20))*time.Millisecond, func() { answer(said) })
}

func (b *bmc) act(o demand) {
	switch o.command {
	case reboot:
		b.restarts++
		b.w.judge.acted(b, o)
	case setBoot:
		b.target = o.unit
	}
}

// fenced is told when an agent has shut the other one out, or believes so.
func (b *bmc) fenced(a *agent) {
	if c := a.out.Claim; c.After(b.highest) {
		b.highest = c
	}
}

package sim

import (
	"math/rand/v2"
	"time"
)

// network is who can't reach whom. A message on its way when a path is cut waits, as
// QUIC would send it again; what ends a session is that somebody has waited too long.
type network struct {
	w    *World
	rnd  *rand.Rand
	cuts map[[2]string]int // how many cuts lie on a path
}

func path(a, b string) [2]string {
	if a > b {
		a, b = b, a
	}
	return [2]string{a, b}
}

func (n *network) cut(a, b string) bool { return n.cuts[path(a, b)] > 0 }

// part cuts a path, and heals it after d.
func (n *network) part(a, b string, d time.Duration) {
	n.cuts[path(a, b)]++
	n.w.after(d, func() { n.cuts[path(a, b)] = max(0, n.cuts[path(a, b)]-1) })
}

// drop sends a message between the two agents of a rack, which is lost if the path is
// cut: who asks gives up and asks again.
func (n *network) drop(from, to string, deliver func()) {
	n.w.after(time.Duration(1+n.rnd.IntN(4))*time.Millisecond, func() {
		if !n.cut(from, to) {
			deliver()
		}
	})
}

// pipe is one direction of a stream: in order, each message once, until it is
// closed. Two pipes of a session know nothing of each other, so messages overtake.
type pipe struct {
	w        *World
	from, to string
	waiting  []parcel
	last     time.Duration
	stuck    bool
	closed   bool
}

type parcel struct {
	at      time.Duration
	deliver func()
}

func (p *pipe) send(deliver func()) {
	if p.closed {
		return
	}
	p.last = max(p.last, p.w.now+time.Duration(2+p.w.net.rnd.IntN(60))*time.Millisecond)
	p.waiting = append(p.waiting, parcel{p.last, deliver})
	p.w.at(p.last, p.pump)
}

func (p *pipe) pump() {
	for !p.closed && !p.stuck && len(p.waiting) > 0 && p.waiting[0].at <= p.w.now {
		if p.w.net.cut(p.from, p.to) {
			p.stuck = true
			p.w.after(300*time.Millisecond, func() {
				p.stuck = false
				p.pump()
			})
			return
		}
		first := p.waiting[0]
		p.waiting = p.waiting[1:]
		first.deliver()
	}
}

func (p *pipe) close() { p.closed, p.waiting = true, nil }

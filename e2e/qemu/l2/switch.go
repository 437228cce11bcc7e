// Package l2 is an Ethernet switch in a process, with cables that can be cut and
// made slow or lossy while frames pass. It needs no privilege and nothing from
// the kernel: its ports are whatever reads and writes whole frames, such as the
// datagram sockets of QEMU's network cards and one TAP of a network namespace.
package l2

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	// maxFrame is an Ethernet frame with a VLAN tag and room to spare.
	maxFrame = 2048
	// header is the two addresses and the type: what is shorter is no frame.
	header = 14
	// queue is how many frames wait for one port; more are dropped, as a switch does.
	queue = 512
	// maxHosts bounds the table of addresses: who invents addresses gets
	// flooded frames, not our memory.
	maxHosts = 1024
)

// Wire carries whole Ethernet frames: one Read, one Write is one frame. Its
// Close ends a Read that waits.
type Wire = io.ReadWriteCloser

// Cable is the state of a port's cable, in both directions.
type Cable struct {
	Cut   bool
	Loss  float64       // share of frames lost, 0 to 1
	Delay time.Duration // added to each frame
	// Jitter is up to how much more is added, at random. A cable does not reorder:
	// a frame waits for the one before it.
	Jitter time.Duration
	// Block says which frames never arrive, as a firewall does; nil: none. It must
	// not keep the frame.
	Block func(frame []byte) bool
}

func (c Cable) blocks(frame []byte) bool { return c.Block != nil && c.Block(frame) }

// Counts are the frames of one port since the start.
type Counts struct {
	In, Out int // taken from the wire, given to it
	Dropped int // lost on the cable, or for want of room
}

// Switch forwards frames between its ports: to the port where the destination
// was last heard, else to all others.
type Switch struct {
	mu     sync.Mutex
	random *rand.Rand
	ports  []*Port
	hosts  map[mac]*Port
}

type mac [6]byte

// group reports whether the address is a multicast or broadcast one.
func (m mac) group() bool { return m[0]&1 == 1 }

// Port is one socket of the switch. Its methods are safe for concurrent use.
type Port struct {
	name   string
	owner  *Switch
	wire   Wire
	out    chan waiting
	cable  Cable
	counts Counts
}

// waiting is a frame on its way out.
type waiting struct {
	frame []byte
	due   time.Time
}

// New is a switch without ports. Random decides which frames a lossy cable
// loses; the switch alone may use it from then on.
func New(random *rand.Rand) *Switch {
	return &Switch{random: random, hosts: map[mac]*Port{}}
}

// Plug adds a port. It must not be called once Run was.
func (s *Switch) Plug(name string, w Wire) *Port {
	p := &Port{name: name, owner: s, wire: w, out: make(chan waiting, queue)}
	s.ports = append(s.ports, p)
	return p
}

// Run forwards until ctx ends or a wire fails; then it closes every wire and
// waits for what it started. The end of ctx is no error.
func (s *Switch) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	var work sync.WaitGroup
	for _, p := range s.ports {
		work.Go(func() { p.receive(ctx, stop) })
		work.Go(func() { p.send(ctx) })
	}
	<-ctx.Done()
	for _, p := range s.ports {
		_ = p.wire.Close()
	}
	work.Wait()
	stop(nil)
	if cause := context.Cause(ctx); !errors.Is(cause, ctx.Err()) {
		return cause
	}
	return nil
}

// receive takes frames from the port's wire.
func (p *Port) receive(ctx context.Context, stop context.CancelCauseFunc) {
	buffer := make([]byte, maxFrame)
	for {
		n, err := p.wire.Read(buffer)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			stop(errors.Join(errors.New("port "+p.name), err))
			return
		}
		p.owner.forward(p, slices.Clone(buffer[:n]), time.Now())
	}
}

// forward decides where a frame goes and queues it there.
func (s *Switch) forward(from *Port, frame []byte, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from.counts.In++
	if len(frame) < header || s.lost(from) || from.cable.blocks(frame) {
		from.counts.Dropped++
		return
	}
	source, to := mac(frame[6:12]), mac(frame[0:6])
	if _, known := s.hosts[source]; !source.group() && (known || len(s.hosts) < maxHosts) {
		s.hosts[source] = from
	}
	if port := s.hosts[to]; port != nil && !to.group() {
		if port != from {
			s.deliver(from, port, frame, now)
		}
		return
	}
	for _, port := range s.ports {
		if port != from {
			s.deliver(from, port, frame, now)
		}
	}
}

// deliver queues a frame on a port. Its delay is that of both cables.
func (s *Switch) deliver(from, to *Port, frame []byte, now time.Time) {
	if s.lost(to) || to.cable.blocks(frame) {
		to.counts.Dropped++
		return
	}
	select {
	case to.out <- waiting{frame, now.Add(s.delay(from.cable) + s.delay(to.cable))}:
	default:
		to.counts.Dropped++
	}
}

// delay is that of the next frame on a cable.
func (s *Switch) delay(c Cable) time.Duration {
	if c.Jitter <= 0 {
		return c.Delay
	}
	return c.Delay + time.Duration(s.random.Int64N(int64(c.Jitter)))
}

// lost reports whether a frame is lost on the cable of p.
func (s *Switch) lost(p *Port) bool {
	return p.cable.Cut || p.cable.Loss > 0 && s.random.Float64() < p.cable.Loss
}

// send gives queued frames to the port's wire when they are due, in the order
// in which they came: a cable does not reorder. A wire that takes no frame now,
// because nobody is behind it yet, is not an error.
func (p *Port) send(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case w := <-p.out:
			if !waitUntil(ctx, w.due) {
				return
			}
			_, err := p.wire.Write(w.frame)
			p.count(err == nil)
		}
	}
}

func (p *Port) count(sent bool) {
	p.owner.mu.Lock()
	defer p.owner.mu.Unlock()
	if sent {
		p.counts.Out++
	} else {
		p.counts.Dropped++
	}
}

// waitUntil reports whether it is time; it is not if ctx ended before.
func waitUntil(ctx context.Context, due time.Time) bool {
	left := time.Until(due)
	if left <= 0 {
		return true
	}
	select {
	case <-time.After(left):
		return true
	case <-ctx.Done():
		return false
	}
}

// Set changes the port's cable from the next frame on.
func (p *Port) Set(c Cable) {
	p.owner.mu.Lock()
	defer p.owner.mu.Unlock()
	p.cable = c
}

// Counts are the frames so far.
func (p *Port) Counts() Counts {
	p.owner.mu.Lock()
	defer p.owner.mu.Unlock()
	return p.counts
}

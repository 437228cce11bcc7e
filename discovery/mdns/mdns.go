// Package mdns is the finder that browses the BMC network by multicast DNS
// (RFC 6762, 6763). Nothing that it hears is believed: an answer is a hint where
// to look. One that comes from off the link, has crossed a router or points off
// the link it came in on is dropped.
//
// The package asks by itself, for a library that only hands out names can't say
// from whom and on which interface an answer came; without that, neither can a
// forged answer be told nor a link-local address be reached.
package mdns

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/discovery/link"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/obs"
)

// Name is what this finder calls itself in a sighting.
const Name = "mdns"

const (
	window = 10 * time.Second
	pause  = 50 * time.Second // between two windows, and up to a tenth more
	https  = 443
	// maxQuestions bounds what a query asks about single instances.
	maxQuestions = 24
)

// services are the types under which BMCs announce themselves: the convention,
// and what OpenBMC's own service files say. Its stock image announces only the
// console.
var services = [...]string{"_redfish._tcp", "_obmc_redfish._tcp", "_obmc_rest._tcp", "_obmc_console._tcp"}

// round is one query of a window. Responders answer after 20 to 120 ms, and must
// not multicast a record again within a second (RFC 6762, section 6); so what was
// lost is asked for anew by unicast, which they may answer at once.
type round struct {
	at      time.Duration
	unicast bool
}

var rounds = [...]round{
	{0, false},
	{140 * time.Millisecond, true},
	{240 * time.Millisecond, true},
	{340 * time.Millisecond, true},
	{1500 * time.Millisecond, false},
	{4500 * time.Millisecond, false},
}

// Finder browses the named interfaces, or every multicast interface that is up.
type Finder struct {
	Interfaces []string
	Log        *slog.Logger
}

// Run browses at once, and again every minute, until ctx ends. What it hears it
// tells at once. An interface that is missing is looked for again each time.
func (f Finder) Run(ctx context.Context, out chan<- discovery.Sighting) error {
	said, known := "", newCache()
	for ctx.Err() == nil {
		known.expire(time.Now())
		err := f.browse(ctx, known, out)
		if err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			f.Log.Warn("can't browse for BMCs", obs.Err, err)
		}
		rest(ctx, pause+rand.N(pause/10)) //nolint:gosec // jitter
	}
	return ctx.Err()
}

func rest(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// heard is a packet, or why one was dropped.
type heard struct {
	link.Packet
	why string
}

// browse is one window over all services, on all sockets that can be opened: an
// IPv6-only network, or a host without it, is as good as both.
func (f Finder) browse(ctx context.Context, known *cache, out chan<- discovery.Sighting) error {
	links, err := link.Find(f.Interfaces)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, window)
	defer cancel()
	shared, own, err := open(links)
	if err != nil {
		return err
	}
	packets := make(chan heard)
	var wg sync.WaitGroup
	for _, c := range append(shared, own...) {
		wg.Go(func() { listen(ctx, c, packets) })
		wg.Go(func() {
			<-ctx.Done()
			_ = c.Close()
		})
	}
	err = browsing{known: known, shared: shared, own: own, out: out}.run(ctx, packets)
	cancel()
	wg.Wait()
	return err
}

// open opens two sockets for each address family: one that shares the port of
// mDNS and hears what is multicast, and one of our own that hears what is sent to
// us alone, beside whatever else speaks mDNS on this host.
func open(links []link.Link) (shared, own []*link.Conn, err error) {
	var failed []error
	for _, group := range []string{"224.0.0.251:5353", "[ff02::fb]:5353"} {
		o := link.Options{Group: netip.MustParseAddrPort(group), Join: true, Hops: 255}
		s, err := link.Open(links, o)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		shared = append(shared, s)
		o.Join = false
		if s, err = link.Open(links, o); err == nil {
			own = append(own, s)
		}
	}
	if len(shared) == 0 {
		return nil, nil, fault.Wrap(fault.Unavailable, "browse", errors.Join(failed...))
	}
	return shared, own, nil
}

func listen(ctx context.Context, c *link.Conn, packets chan<- heard) {
	buf := make([]byte, link.MaxPacket)
	for {
		p, why, err := c.Read(buf)
		if err != nil {
			return
		}
		p.Data = bytes.Clone(p.Data)
		select {
		case packets <- heard{p, why}:
		case <-ctx.Done():
			return
		}
	}
}

// browsing is one window.
type browsing struct {
	known       *cache
	shared, own []*link.Conn
	out         chan<- discovery.Sighting
}

func (b browsing) run(ctx context.Context, packets <-chan heard) error {
	begun, next := time.Now(), 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			if err := b.ask(rounds[next]); err != nil {
				return err
			}
			if next++; next < len(rounds) {
				timer.Reset(rounds[next].at - time.Since(begun))
			}
		case p := <-packets:
			if p.why != "" {
				b.tell(ctx, discovery.Sighting{Found: Name, Note: p.why})
				continue
			}
			for _, s := range b.known.take(time.Now(), p.Packet) {
				b.tell(ctx, s)
			}
		}
	}
}

func (b browsing) tell(ctx context.Context, s discovery.Sighting) {
	select {
	case b.out <- s:
	case <-ctx.Done():
	}
}

// ask sends one query. It fails only if no socket takes it.
func (b browsing) ask(r round) error {
	conns := b.shared
	if r.unicast {
		conns = b.own
	}
	var m dns.Msg
	for _, s := range services {
		m.Question = append(m.Question, question(s+".local.", dns.TypePTR))
	}
	m.Question = append(m.Question, b.known.missing()...)
	if r.unicast {
		for i := range m.Question {
			m.Question[i].Qclass |= 1 << 15 // QU (RFC 6762, 5.4)
		}
	}
	data, err := m.Pack()
	if err != nil {
		m.Question = m.Question[:len(services)] // a stranger's name that can't be asked for
		if data, err = m.Pack(); err != nil {
			return fault.Wrap(fault.Internal, "ask for BMCs", err)
		}
	}
	var failed []error
	for _, c := range conns {
		if err := c.Ask(data); err != nil {
			failed = append(failed, err)
		}
	}
	if r.unicast || len(failed) < len(conns) {
		return nil
	}
	return errors.Join(failed...)
}

func question(name string, kind uint16) dns.Question {
	return dns.Question{Name: name, Qtype: kind, Qclass: dns.ClassINET}
}

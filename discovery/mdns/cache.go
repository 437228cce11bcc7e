package mdns

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/discovery/link"
)

const (
	// maxEntries bounds the instances, and the hosts, that are remembered.
	maxEntries = 10_000
	// maxRate bounds the records that are taken from one sender in a second.
	maxRate = 10_000
	// maxSenders bounds the senders that are counted in a second.
	maxSenders = 8192
	maxAddrs   = 8 // of a host
	// keep is the longest that a record is believed: windows are a minute apart.
	keep = 2 * time.Minute
)

// id names a record where it was heard: a name means something only on its link,
// and what one sender says never changes what another one said.
type id struct {
	link int
	from string // the sender
	name string // in lower case
}

type instance struct {
	service string
	name    string // as it is shown
	host    string
	port    uint16
	txt     []string
	until   time.Time
}

type host struct {
	addrs   []netip.Addr
	until   time.Time
	waiting []id // instances that came before the first address
}

// cache puts together what comes in several packets, and forgets it in time. It
// is told the time, and not safe for concurrent use.
type cache struct {
	instances map[id]*instance
	hosts     map[id]*host
	second    time.Time
	rates     map[string]int // records per sender in that second
}

func newCache() *cache {
	return &cache{instances: map[id]*instance{}, hosts: map[id]*host{}, rates: map[string]int{}}
}

// expire forgets what is too old.
func (c *cache) expire(now time.Time) {
	for k, e := range c.instances {
		if now.After(e.until) {
			delete(c.instances, k)
		}
	}
	for k, h := range c.hosts {
		if now.After(h.until) {
			delete(c.hosts, k)
		}
	}
}

// take reads a packet and returns what it completes. Whatever is no answer about
// our services is passed over in silence.
func (c *cache) take(now time.Time, p link.Packet) []discovery.Sighting {
	var m dns.Msg
	if m.Unpack(p.Data) != nil || !m.Response {
		return nil
	}
	records := slices.Concat(m.Answer, m.Ns, m.Extra)
	if !c.allows(now, p.From, len(records)) {
		return nil
	}
	touched := map[id]bool{}
	for _, rr := range records {
		c.record(now, p, rr, touched)
	}
	var all []discovery.Sighting
	for k := range touched {
		if e := c.instances[k]; e != nil {
			all = append(all, c.complete(k, e, p)...)
		}
	}
	slices.SortFunc(all, func(a, b discovery.Sighting) int {
		return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.Service, b.Service), cmp.Compare(a.Name, b.Name))
	})
	return all
}

// allows counts the records of a sender, and refuses those over its rate.
func (c *cache) allows(now time.Time, from string, n int) bool {
	if now.Sub(c.second) >= time.Second {
		c.second = now
		clear(c.rates)
	}
	if c.rates[from]+n > maxRate {
		return false
	}
	if len(c.rates) < maxSenders || c.rates[from] > 0 {
		c.rates[from] += n
	}
	return true
}

// record takes one record, and marks the instances that it changed.
func (c *cache) record(now time.Time, p link.Packet, rr dns.RR, touched map[id]bool) {
	h := rr.Header()
	if h.Class&^(1<<15) != dns.ClassINET { // the top bit says "flush" (RFC 6762, 10.2)
		return
	}
	k := id{p.Link.Index, p.From, strings.ToLower(h.Name)}
	until := now.Add(min(time.Duration(h.Ttl)*time.Second, keep))
	switch rr := rr.(type) {
	case *dns.PTR:
		if slices.ContainsFunc(services[:], func(s string) bool { return k.name == s+".local." }) {
			k.name = strings.ToLower(rr.Ptr)
			c.instance(k, rr.Ptr, h.Ttl, until, touched)
		}
	case *dns.SRV:
		if e := c.instance(k, h.Name, h.Ttl, until, touched); e != nil {
			e.host, e.port = strings.ToLower(rr.Target), rr.Port
		}
	case *dns.TXT:
		if e := c.instance(k, h.Name, h.Ttl, until, touched); e != nil {
			e.txt = rr.Txt[:min(len(rr.Txt), maxTXT)]
		}
	case *dns.A:
		c.address(k, rr.A, until, touched)
	case *dns.AAAA:
		c.address(k, rr.AAAA, until, touched)
	}
}

// instance is the entry of a full instance name, new or refreshed; nil if it is
// none of ours or says goodbye.
func (c *cache) instance(k id, full string, ttl uint32, until time.Time, touched map[id]bool) *instance {
	service := serviceOf(k.name)
	if service == "" {
		return nil
	}
	if ttl == 0 { // goodbye: the table keeps what answers, for anybody may say this
		delete(c.instances, k)
		return nil
	}
	e := c.instances[k]
	if e == nil {
		makeRoom(c.instances)
		e = &instance{service: service, name: clean(full[:len(full)-len(service)-len("..local.")])}
		c.instances[k] = e
	}
	e.until = until
	touched[k] = true
	return e
}

// serviceOf is the service of a full instance name in lower case, "" if it is
// none of ours.
func serviceOf(name string) string {
	for _, s := range services {
		if before, ok := strings.CutSuffix(name, "."+s+".local."); ok && before != "" {
			return s
		}
	}
	return ""
}

func (c *cache) address(k id, ip net.IP, until time.Time, touched map[id]bool) {
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		return
	}
	addr = addr.Unmap()
	h := c.hosts[k]
	if h == nil {
		makeRoom(c.hosts)
		h = &host{}
		c.hosts[k] = h
	}
	h.until = until
	if len(h.addrs) < maxAddrs && !slices.Contains(h.addrs, addr) {
		h.addrs = append(h.addrs, addr)
	}
	for _, k := range h.waiting {
		touched[k] = true
	}
	h.waiting = nil
}

// makeRoom drops any entry of a full map: whom it hits says so again, and a flood
// hits mostly itself.
func makeRoom[V any](m map[id]V) {
	if len(m) < maxEntries {
		return
	}
	for k := range m {
		delete(m, k)
		return
	}
}

// complete are the sightings of an instance, none while its port or its addresses
// are not known.
func (c *cache) complete(k id, e *instance, p link.Packet) []discovery.Sighting {
	if e.port == 0 {
		return nil
	}
	at := id{k.link, k.from, e.host}
	h := c.hosts[at]
	if h == nil {
		makeRoom(c.hosts)
		h = &host{until: e.until}
		c.hosts[at] = h
	}
	if len(h.addrs) == 0 {
		if len(h.waiting) < maxAddrs && !slices.Contains(h.waiting, k) {
			h.waiting = append(h.waiting, k)
		}
		return nil
	}
	hint, uuid := hints(e.txt)
	port := int(e.port)
	if strings.Contains(e.service, "_console") {
		port = https // it says where its console is; Redfish is beside it
	}
	var all []discovery.Sighting
	for _, addr := range h.addrs {
		s := discovery.Sighting{Name: e.name, Found: Name, Service: e.service, Link: p.Link.Name, Source: p.From, UUID: uuid, Hint: hint}
		if name, ok := p.Link.Reach(addr); ok {
			s.Address = net.JoinHostPort(name, strconv.Itoa(port))
		} else {
			s = discovery.Sighting{Found: Name, Note: p.From + " named addresses that are not on " + p.Link.Name + ", they were dropped"}
		}
		all = append(all, s)
	}
	return all
}

// missing asks for what keeps instances from being complete, a few at a time.
func (c *cache) missing() []dns.Question {
	var all []dns.Question
	for k, e := range c.instances {
		if e.port == 0 {
			all = append(all, question(k.name, dns.TypeSRV), question(k.name, dns.TypeTXT))
		} else if h := c.hosts[id{k.link, k.from, e.host}]; h == nil || len(h.addrs) == 0 {
			all = append(all, question(e.host, dns.TypeA), question(e.host, dns.TypeAAAA))
		}
		if len(all) >= maxQuestions {
			break
		}
	}
	return all
}

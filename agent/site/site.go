// Package site joins the agents of one site (the racks behind one WAN link), so
// that they know of each other and can help each other while no coordinator is
// reached. It is two things on two ports:
//
//   - gossip (hashicorp/memberlist, SWIM) tells within seconds who lives. It is a
//     hint: whoever holds the gossip's key can say anything in anybody's name.
//   - calls go over mutual-TLS QUIC between the agents themselves. Only what comes
//     over them may be acted upon: their other end has proven who it is.
//
// Who belongs to the site, and the gossip's key, the coordinators tell (Learn). The
// package keeps nothing on disk and decides nothing about a rack.
package site

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
)

// MaxMembers is the largest site. Each member syncs its whole table with another
// one now and then, so gossip is never over all agents of a fleet.
const MaxMembers = 256

// maxMeta bounds what an agent tells of itself; memberlist itself takes 512 bytes.
const maxMeta = 200

// maxRole bounds the role within it.
const maxRole = 16

// Config is what a Site needs.
type Config struct {
	Agent fleet.AgentName
	Rack  fleet.RackName
	Site  fleet.SiteName
	// Listen is ip:port at which the others reach the gossip (TCP and UDP); calls
	// are taken at the next port (UDP). Port 0 takes two free ones. The address
	// must be one of this machine's: it is what the others are told.
	Listen string
	// Join are the gossip addresses of agents, ip:port, for a site whose
	// coordinators have told of nobody yet. Usually empty.
	Join []string
	// Endpoint proves who we are and judges the others.
	Endpoint *trust.Endpoint
	// Answer answers a call of the agent from, which has proven to be it; nil:
	// nothing but pings is answered. It is called by many goroutines, and perhaps
	// twice for one call. ctx ends with the call's deadline or when the caller has
	// gone.
	Answer func(ctx context.Context, from trust.Identity, c *pb.SiteCall) (*pb.SiteReply, error)
	// Serve takes a stream that is no call, after its StreamOpen; nil: there are
	// none. The stream is closed when it returns.
	Serve func(ctx context.Context, from trust.Identity, kind pb.StreamOpen_Kind, ch *mesh.Channel)
	Log   *slog.Logger

	transport memberlist.Transport // of tests
	tune      func(*memberlist.Config)
}

// Member is an agent of the site as the coordinators know it.
type Member struct {
	Agent  fleet.AgentName
	Rack   fleet.RackName
	Gossip string // ip:port
	Calls  string // ip:port
}

// Peer is another agent of the site. All of it but Agent and Rack is hearsay.
type Peer struct {
	Agent   fleet.AgentName
	Rack    fleet.RackName
	Alive   bool      // the gossip hears it
	Since   time.Time // when Alive became so; zero if it was never heard
	Role    string    // as it says, see Say
	Epoch   uint64    // likewise
	Address string    // ip:port (UDP) of its calls; "" if nobody knows
}

// Site is this agent among the others of its site. All methods are safe for
// concurrent use.
type Site struct {
	conf     Config
	gossip   *memberlist.Memberlist
	ring     *memberlist.Keyring
	listener *mesh.Listener
	addrs    struct{ gossip, calls string }
	close    func() error
	ended    atomic.Bool

	tell    chan struct{} // what we tell of ourselves has changed
	learned chan struct{} // members or keys have

	mu      sync.Mutex
	members map[fleet.AgentName]Member
	heard   map[fleet.AgentName]heard
	changed chan struct{}
	keys    []key // newest first
	me      *pb.SiteMeta
	dialled map[fleet.AgentName]*way
	guests  map[string]int // sessions that others have opened, by agent
}

// heard is what the gossip says of an agent.
type heard struct {
	alive bool
	since time.Time
	ip    netip.Addr
	meta  *pb.SiteMeta
}

// New opens the two sockets. Nobody is heard before Learn. Call Run, or Close.
func New(c Config) (*Site, error) {
	const op = "join the agents of the site"
	ip, port, err := ParseListen(c.Listen)
	if err != nil {
		return nil, err
	}
	s := &Site{
		conf: c, tell: make(chan struct{}, 1), learned: make(chan struct{}, 1), changed: make(chan struct{}),
		members: make(map[fleet.AgentName]Member), heard: make(map[fleet.AgentName]heard),
		dialled: make(map[fleet.AgentName]*way), guests: make(map[string]int),
	}
	s.close = sync.OnceValue(s.shut)
	calls := port
	if calls != 0 {
		calls++
	}
	s.listener, err = mesh.ListenSite(netip.AddrPortFrom(ip, calls).String(), c.Endpoint.Agents(""))
	if err != nil {
		return nil, err
	}
	s.addrs.calls = s.listener.Addr()
	own := sha256.Sum256(c.Endpoint.Credentials().Certificate.Leaf.RawSubjectPublicKeyInfo)
	at, err := netip.ParseAddrPort(s.addrs.calls)
	if err != nil {
		return nil, errors.Join(fault.Wrap(fault.Internal, op, err), s.Close())
	}
	s.me = &pb.SiteMeta{Rack: string(c.Rack), Calls: uint32(at.Port()), Key: own[:keyPrefix]}
	if s.gossip, s.ring, s.addrs.gossip, err = s.begin(ip, port); err != nil {
		return nil, errors.Join(fault.Wrap(fault.Unavailable, op, err), s.Close())
	}
	return s, nil
}

// ParseListen reads the address of a Config: an address of this machine, not a name,
// and not all of them.
func ParseListen(listen string) (ip netip.Addr, port uint16, err error) {
	const op = "listen for the agents of the site"
	at, err := netip.ParseAddrPort(listen)
	if err != nil || at.Addr().IsUnspecified() || at.Addr().IsMulticast() {
		return ip, 0, fault.New(fault.BadInput, op, fmt.Sprintf("%q is no IP:PORT by which the others could reach it", listen)).
			WithHint("write the address of this machine on the network of the site, like 10.3.0.17:7445")
	}
	if at.Port() == 65535 {
		return ip, 0, fault.New(fault.BadInput, op, "calls need the next port, and there is none after 65535")
	}
	return at.Addr(), at.Port(), nil
}

// Addrs are where the others reach us: ip:port of the gossip and of calls.
func (s *Site) Addrs() (gossip, calls string) { return s.addrs.gossip, s.addrs.calls }

// Close tells the others that we leave and closes the sockets. Run does so itself; it
// may be called again.
func (s *Site) Close() error { return s.close() }

func (s *Site) shut() error {
	var err error
	if s.gossip != nil {
		_ = s.gossip.Leave(farewell) // who does not hear it finds out
		s.ended.Store(true)
		err = s.gossip.Shutdown()
	}
	err = errors.Join(err, s.listener.Close())
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.dialled {
		w.drop("the agent stops")
	}
	return err
}

// Run hears, tells and answers until ctx ends; it then tells the others that we
// leave, closes everything, and waits for what it has begun.
func (s *Site) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.serve(ctx) })
	group.Go(func() error { return s.keepTelling(ctx) })
	group.Go(func() error { return s.keepJoining(ctx) })
	group.Go(func() error {
		<-ctx.Done()
		return s.Close()
	})
	err := group.Wait()
	if ctx.Err() != nil && errors.Is(err, net.ErrClosed) {
		return ctx.Err()
	}
	return err
}

// Learn is told who belongs to the site and the keys of its gossip, newest first, of
// 32 bytes each. It replaces what was learnt before. An agent that is not among the
// members is not heard, whatever the gossip says; those beyond MaxMembers by name are
// none.
func (s *Site) Learn(members []Member, keys [][]byte) {
	members = slices.SortedFunc(slices.Values(members), func(a, b Member) int { return strings.Compare(string(a.Agent), string(b.Agent)) })
	known := make(map[fleet.AgentName]Member)
	for _, m := range members[:min(len(members), MaxMembers)] {
		known[m.Agent] = m
	}
	s.mu.Lock()
	s.members = known
	s.keys = merged(s.keys, keys, time.Now())
	s.note()
	s.mu.Unlock()
	wake(s.learned)
}

// Say tells the others what we are in our rack and the epoch of its ownership. The
// role has at most 16 bytes.
func (s *Site) Say(role string, epoch uint64) {
	s.mu.Lock()
	me := proto.CloneOf(s.me)
	me.Role, me.Epoch = role[:min(len(role), maxRole)], epoch
	s.me = me
	s.mu.Unlock()
	wake(s.tell)
}

// Peers are the other agents of the site, by name.
func (s *Site) Peers() []Peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Peer, 0, len(s.members))
	for name, m := range s.members {
		if name == s.conf.Agent {
			continue
		}
		h := s.heard[name]
		p := Peer{Agent: name, Rack: m.Rack, Alive: h.alive, Since: h.since, Role: h.meta.GetRole(), Epoch: h.meta.GetEpoch()}
		if ways := s.addresses(name); len(ways) > 0 {
			p.Address = ways[0]
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b Peer) int { return strings.Compare(string(a.Agent), string(b.Agent)) })
	return all
}

// Changed is closed when Peers are others than now. Ask for it before Peers, and
// again after it was closed.
func (s *Site) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// note tells whoever waits that something has changed. The caller holds mu.
func (s *Site) note() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// addresses are where an agent takes calls, the likeliest first. The caller holds mu.
func (s *Site) addresses(name fleet.AgentName) []string {
	var all []string
	if h := s.heard[name]; h.ip.IsValid() && h.meta.GetCalls() != 0 {
		all = append(all, netip.AddrPortFrom(h.ip, uint16(h.meta.GetCalls())).String())
	}
	if m := s.members[name]; m.Calls != "" && !slices.Contains(all, m.Calls) {
		all = append(all, m.Calls)
	}
	return all
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// NewKey is a key for a gossip.
func NewKey() []byte {
	k := make([]byte, keySize)
	_, _ = rand.Read(k) // never fails, see its documentation
	return k
}

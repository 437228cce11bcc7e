package site

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	keySize   = 32 // AES-256
	keyPrefix = 8  // bytes of a public key's hash
	// useAfter is how long a new key is only understood, so that everybody has it
	// before anybody uses it.
	useAfter = 5 * time.Second
	// joinSoon is the pause between attempts while a member is not heard, joinAlways
	// while all are: halves of a site that took each other for dead do not find
	// together by themselves (memberlist issue 243).
	joinSoon, joinAlways = 3 * time.Second, time.Minute
	joinAt               = 3 // members at a time: one alone would be slow to tell the others
	farewell             = 500 * time.Millisecond
	tellTimeout          = time.Second
)

// begin starts the gossip, with a key of which nobody knows: until Learn it
// understands nobody.
func (s *Site) begin(ip netip.Addr, port uint16) (*memberlist.Memberlist, *memberlist.Keyring, string, error) {
	nobodys := NewKey()
	ring, err := memberlist.NewKeyring([][]byte{nobodys}, nobodys)
	if err != nil {
		return nil, nil, "", err
	}
	conf := memberlist.DefaultLANConfig()
	conf.Name = string(s.conf.Agent)
	conf.BindAddr, conf.BindPort = ip.String(), int(port)
	conf.AdvertisePort = int(port)
	conf.Transport = s.conf.transport
	// Measured with these: a killed member of 2 to 20 is known in 2.4 to 3.7 s.
	conf.ProbeInterval, conf.ProbeTimeout = 500*time.Millisecond, 200*time.Millisecond
	conf.SuspicionMult = 3
	// In a small site nobody is left to confirm a suspicion, and it would last 9 s.
	conf.SuspicionMaxTimeoutMult = 2
	conf.GossipInterval = 100 * time.Millisecond
	conf.PushPullInterval = 30 * time.Second
	conf.TCPTimeout = 2 * time.Second
	conf.DeadNodeReclaimTime = 2 * time.Second // an agent that has died may come back elsewhere
	conf.Keyring = ring
	conf.Label = "chiba/" + string(s.conf.Site)
	conf.EnableCompression = false // small anyway, and one thing less to attack
	d := &delegate{s}
	conf.Delegate, conf.Events, conf.Alive, conf.Merge = d, d, d, d
	conf.LogOutput = &logWriter{s.conf.Log, &s.ended}
	if s.conf.tune != nil {
		s.conf.tune(conf)
	}
	m, err := memberlist.Create(conf)
	if err != nil {
		return nil, nil, "", err
	}
	return m, ring, netip.AddrPortFrom(ip, uint16(conf.BindPort)).String(), nil
}

// key is a key of the gossip and when it was learnt.
type key struct {
	key     string
	learned time.Time
}

// merged are the keys, each with the time at which it was first learnt.
func merged(have []key, keys [][]byte, now time.Time) []key {
	fresh := make([]key, 0, len(keys))
	for _, k := range keys {
		at := now
		if i := slices.IndexFunc(have, func(h key) bool { return h.key == string(k) }); i >= 0 {
			at = have[i].learned
		}
		if len(k) == keySize {
			fresh = append(fresh, key{string(k), at})
		}
	}
	return fresh
}

// turnKeys has the gossip understand all keys that we have learnt and use the newest,
// once everybody had the time to learn it. It tells when to look again; zero: not
// before more is learnt.
func (s *Site) turnKeys(now time.Time) (time.Duration, error) {
	const op = "change the key of the site's gossip"
	s.mu.Lock()
	keys, alone := slices.Clone(s.keys), !s.hearsAnybody()
	s.mu.Unlock()
	if len(keys) == 0 {
		return 0, nil
	}
	for _, k := range keys {
		if err := s.ring.AddKey([]byte(k.key)); err != nil {
			return 0, fault.Wrap(fault.Internal, op, err)
		}
	}
	valid := func(k []byte) bool {
		return slices.ContainsFunc(keys, func(v key) bool { return v.key == string(k) })
	}
	left := useAfter - now.Sub(keys[0].learned)
	if left <= 0 || alone || !valid(s.ring.GetPrimaryKey()) {
		left = 0
		if err := s.ring.UseKey([]byte(keys[0].key)); err != nil {
			return 0, fault.Wrap(fault.Internal, op, err)
		}
	}
	for _, old := range s.ring.GetKeys() {
		if !valid(old) {
			if err := s.ring.RemoveKey(old); err != nil {
				return 0, fault.Wrap(fault.Internal, op, err)
			}
		}
	}
	return left, nil
}

// hearsAnybody reports whether the gossip hears anybody. The caller holds mu.
func (s *Site) hearsAnybody() bool {
	for name := range s.members {
		if s.heard[name].alive {
			return true
		}
	}
	return false
}

// keepTelling turns the keys and tells what Say has said, until ctx ends.
func (s *Site) keepTelling(ctx context.Context) error {
	turn := time.NewTimer(0)
	defer turn.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.tell:
			if err := s.gossip.UpdateNode(tellTimeout); err != nil { // it is told again by the next exchange
				s.conf.Log.Debug("gossip", obs.Err, err)
			}
			continue
		case <-s.learned:
		case <-turn.C:
		}
		again, err := s.turnKeys(time.Now())
		if err != nil {
			return err
		}
		if again > 0 {
			turn.Reset(again)
		}
	}
}

// keepJoining joins a few members whom we do not hear, and now and then any, until
// ctx ends.
func (s *Site) keepJoining(ctx context.Context) error {
	var last time.Time
	for {
		news := s.Changed()
		targets, all := s.strangers()
		if !all || time.Since(last) > joinAlways {
			last = time.Now()
			s.joinEach(targets)
		}
		if err := rest(ctx, news); err != nil {
			return err
		}
	}
}

func (s *Site) joinEach(targets []string) {
	var joining sync.WaitGroup
	for _, at := range targets {
		joining.Go(func() {
			if _, err := s.gossip.Join([]string{at}); err != nil {
				s.conf.Log.Debug("a member of the site is not heard", obs.Addr, at, obs.Err, err)
			}
		})
	}
	joining.Wait()
}

// rest waits a while, with jitter; news end it, but not at once.
func rest(ctx context.Context, news <-chan struct{}) error {
	least := time.NewTimer(joinSoon / 6)
	defer least.Stop()
	most := time.NewTimer(joinSoon + rand.N(joinSoon/4)) //nolint:gosec // jitter
	defer most.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-least.C:
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-most.C:
	case <-news:
	}
	return nil
}

// strangers are up to three addresses to join: of members that we do not hear, or,
// if we hear all, of any.
func (s *Site) strangers() (addrs []string, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var silent, known []string
	for name, m := range s.members {
		switch {
		case name == s.conf.Agent || m.Gossip == "":
		case s.heard[name].alive:
			known = append(known, m.Gossip)
		default:
			silent = append(silent, m.Gossip)
		}
	}
	if len(known)+len(silent) == 0 {
		silent = slices.Clone(s.conf.Join)
	}
	all = len(silent) == 0
	if all {
		silent = known
	}
	rand.Shuffle(len(silent), func(i, j int) { silent[i], silent[j] = silent[j], silent[i] }) //nolint:gosec // any order
	return silent[:min(len(silent), joinAt)], all
}

// delegate is what memberlist asks and tells. It is called with memberlist's locks
// held, so nothing here calls memberlist, and nothing waits.
type delegate struct{ *Site }

// NodeMeta implements memberlist.Delegate.
func (d *delegate) NodeMeta(int) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, err := proto.Marshal(d.me)
	if err != nil || len(b) > maxMeta {
		return nil // the names are bounded, so this does not happen
	}
	return b
}

// NotifyMsg implements memberlist.Delegate; nothing is sent by gossip.
func (*delegate) NotifyMsg([]byte) {}

// GetBroadcasts implements memberlist.Delegate.
func (*delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements memberlist.Delegate.
func (*delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState implements memberlist.Delegate.
func (*delegate) MergeRemoteState([]byte, bool) {}

// NotifyMerge implements memberlist.MergeDelegate.
func (*delegate) NotifyMerge(peers []*memberlist.Node) error {
	if len(peers) > MaxMembers {
		return fmt.Errorf("it tells of %d members, a site has at most %d", len(peers), MaxMembers)
	}
	return nil
}

// NotifyAlive implements memberlist.AliveDelegate: it refuses whom the coordinators
// have not told of, and who makes no sense.
func (d *delegate) NotifyAlive(n *memberlist.Node) error {
	name := fleet.AgentName(n.Name)
	if name == d.conf.Agent {
		return nil
	}
	meta, err := decode(n.Meta)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	m, is := d.members[name]
	switch {
	case !is:
		return fmt.Errorf("%q is no agent of this site", n.Name)
	case string(m.Rack) != meta.GetRack():
		return fmt.Errorf("%q says its rack is %q, it is %q", n.Name, meta.GetRack(), m.Rack)
	}
	return nil
}

// NotifyJoin implements memberlist.EventDelegate.
func (d *delegate) NotifyJoin(n *memberlist.Node) { d.hear(n, true) }

// NotifyUpdate implements memberlist.EventDelegate.
func (d *delegate) NotifyUpdate(n *memberlist.Node) { d.hear(n, true) }

// NotifyLeave implements memberlist.EventDelegate.
func (d *delegate) NotifyLeave(n *memberlist.Node) { d.hear(n, false) }

// hear copies what it needs of n: memberlist changes it later, under its own lock.
func (d *delegate) hear(n *memberlist.Node, alive bool) {
	name := fleet.AgentName(n.Name)
	if name == d.conf.Agent {
		return
	}
	meta, err := decode(n.Meta)
	ip, ok := netip.AddrFromSlice(n.Addr)
	if err != nil || !ok {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended.Load() {
		return
	}
	was := d.heard[name]
	now := heard{alive: alive, since: was.since, ip: ip.Unmap(), meta: meta}
	if was.alive != alive || was.since.IsZero() {
		now.since = time.Now()
		if w := d.dialled[name]; w != nil && !alive {
			w.drop("it is gone")
		}
		d.conf.Log.Info("an agent of the site is heard, or no longer", obs.Peer, n.Name, "alive", alive)
	}
	d.heard[name] = now
	d.note()
}

func decode(b []byte) (*pb.SiteMeta, error) {
	m := &pb.SiteMeta{}
	if len(b) > maxMeta {
		return nil, fmt.Errorf("it tells %d bytes of itself, the limit is %d", len(b), maxMeta)
	}
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("what it tells of itself: %w", err)
	}
	if m.GetCalls() > 65535 || len(m.GetRole()) > maxRole {
		return nil, fmt.Errorf("port %d and role %q are none", m.GetCalls(), m.GetRole())
	}
	return m, nil
}

// logWriter takes memberlist's log lines. It tries everything again by itself, so
// they are for who looks for a fault. Its goroutines go on for a moment after they
// were told to end; what they say then is for nobody.
type logWriter struct {
	log   *slog.Logger
	ended *atomic.Bool
}

func (w *logWriter) Write(line []byte) (int, error) {
	if !w.ended.Load() && w.log.Enabled(context.Background(), slog.LevelDebug) {
		w.log.Debug("gossip", obs.Reason, strings.TrimSpace(string(line)))
	}
	return len(line), nil
}

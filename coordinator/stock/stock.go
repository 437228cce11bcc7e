// Package stock keeps the artifacts of the coordinators: images and firmware, as
// files called by their digest. The log has only what they are called and who holds
// them. A file is on two coordinators before its entry is in the log, if there are
// several; soon after it is on all, and a disk that was lost is filled again.
package stock

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/blob"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
)

const (
	repairEvery = 10 * time.Second
	// grace is how long a file stays that no entry names any more.
	grace       = 24 * time.Hour
	askEvery    = 300 * time.Millisecond
	pullTimeout = 30 * time.Minute
	maxPulls    = 16  // that other coordinators want of us at once
	maxSessions = 256 // of agents
	maxOfOne    = 8   // of them, one agent's
	maxStreams  = 128
)

// Member is another coordinator.
type Member struct{ Name, Addr string }

// Peers reach the other coordinators; a *peers.Peers is one.
type Peers interface {
	Call(ctx context.Context, addr string, c *pb.PeerCall) (*pb.PeerReply, error)
	// Connect opens a session of its own.
	Connect(ctx context.Context, addr string) (mesh.Session, error)
}

// Log commits commands; a *raftnode.Node is one.
type Log interface {
	Propose(ctx context.Context, c *pb.Command) (state.Outcome, error)
}

// Config is what a Stock needs.
type Config struct {
	Name     string // of this coordinator
	Dir      string
	Machine  *state.Machine
	Commands Log
	Others   func() []Member // of the group
	Peers    Peers           // nil: there are no others
	Endpoint *trust.Endpoint // judges agents
	Log      *slog.Logger
}

// Stock is the artifacts of one coordinator. All methods are safe for concurrent use.
type Stock struct {
	conf  Config
	store *blob.Store
	pulls chan pull

	mu     sync.Mutex
	wanted map[blob.Digest]error // that another coordinator wants us to have; nil: under way
	orphan map[blob.Digest]time.Time
	guests map[string]int // sessions, by agent
}

// pull is an artifact to get from the coordinator at an address.
type pull struct {
	digest blob.Digest
	from   string
}

// New opens the directory.
func New(c Config) (*Stock, error) {
	store, err := blob.Open(c.Dir, 0)
	if err != nil {
		return nil, err
	}
	return &Stock{
		conf: c, store: store, pulls: make(chan pull, maxPulls),
		wanted: make(map[blob.Digest]error), orphan: make(map[blob.Digest]time.Time), guests: make(map[string]int),
	}, nil
}

// Close closes the directory.
func (s *Stock) Close() error { return s.store.Close() }

// Put keeps what r has, here and at another coordinator if there are some, and tells
// who has it then. It is not in the log yet: if that fails the file goes, after a day.
func (s *Stock) Put(ctx context.Context, r io.Reader, digest string, size int64) (holders []string, err error) {
	d, err := blob.ParseDigest(digest)
	if err != nil {
		return nil, err
	}
	if !s.wants(d) {
		if err = s.store.Put(r, d, size); err != nil {
			return nil, err
		}
	}
	others := s.others()
	holders = []string{s.conf.Name}
	var errs []error
	for _, m := range others {
		if err := s.second(ctx, m, d); err == nil {
			return append(holders, m.Name), nil
		} else if ctx.Err() == nil {
			errs = append(errs, err)
		}
	}
	if len(others) > 0 {
		return nil, fault.New(fault.Unavailable, "keep the artifact "+digest, "no other coordinator takes it: "+errors.Join(errs...).Error()).
			WithHint("it shall be on two at least; look at them with: chiba get coordinators")
	}
	return holders, nil
}

// wants reports whether we have an artifact that somebody adds, and has it stay: its
// entry in the log is on the way, and sweep must not be faster.
func (s *Stock) wants(d blob.Digest) (has bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.orphan, d)
	_, has = s.store.Size(d)
	return has
}

func (s *Stock) others() []Member {
	if s.conf.Peers == nil {
		return nil
	}
	return s.conf.Others()
}

// second has another coordinator get an artifact from us, and waits until it has.
func (s *Stock) second(ctx context.Context, m Member, d blob.Digest) error {
	for {
		reply, err := s.conf.Peers.Call(ctx, m.Addr, &pb.PeerCall{Body: &pb.PeerCall_KeepArtifact{KeepArtifact: &pb.KeepArtifact{Digest: string(d), From: s.conf.Name}}})
		if err != nil {
			return err
		}
		if reply.GetKind() == "" {
			return nil
		}
		if fault.Kind(reply.GetKind()) != fault.Conflict {
			return wire.FromFault(reply.GetKind(), reply.GetError(), reply.GetHint())
		}
		if err := rest(ctx, askEvery); err != nil {
			return err
		}
	}
}

// Keep answers a coordinator that wants us to have an artifact: it is of kind Conflict
// while we get it.
func (s *Stock) Keep(k *pb.KeepArtifact) error {
	op := "keep the artifact " + k.GetDigest()
	d, err := blob.ParseDigest(k.GetDigest())
	if err != nil {
		return err
	}
	if s.wants(d) {
		return nil
	}
	from := ""
	for _, m := range s.others() {
		if m.Name == k.GetFrom() {
			from = m.Addr
		}
	}
	if from == "" {
		return fault.New(fault.NotFound, op, fmt.Sprintf("there is no coordinator %q", k.GetFrom()))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	failed, wanted := s.wanted[d]
	if failed != nil {
		delete(s.wanted, d) // told once; then it is tried again
		return failed
	}
	if !wanted {
		select {
		case s.pulls <- pull{d, from}:
			s.wanted[d] = nil
		default:
			return fault.New(fault.Unavailable, op, "it gets too many others already")
		}
	}
	return fault.New(fault.Conflict, op, "it is being fetched")
}

// Run gets what is missing and removes what nobody needs, until ctx ends.
func (s *Stock) Run(ctx context.Context) error {
	var pulling sync.WaitGroup
	defer pulling.Wait()
	pulling.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case p := <-s.pulls:
				err := s.pull(ctx, p)
				s.mu.Lock()
				if s.wanted[p.digest] = err; err == nil {
					delete(s.wanted, p.digest)
				}
				s.mu.Unlock()
			}
		}
	})
	tick := time.NewTicker(repairEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			s.repair(ctx)
			s.sweep(now)
		}
	}
}

func (s *Stock) pull(ctx context.Context, p pull) error {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	err := s.store.Pull(ctx, p.digest, blob.Source{Name: "the coordinator at " + p.from, Connect: func(ctx context.Context) (blob.Conn, error) {
		session, err := s.conf.Peers.Connect(ctx, p.from)
		if err != nil {
			return nil, err
		}
		return conn{session}, nil
	}}, nil)
	if err != nil && ctx.Err() == nil {
		s.conf.Log.Warn("an artifact was not fetched from another coordinator", obs.Addr, p.from, obs.Err, err)
	}
	return err
}

// conn is a session to another coordinator.
type conn struct{ mesh.Session }

func (c conn) Open(ctx context.Context) (mesh.Stream, *mesh.Channel, error) {
	stream, err := c.Session.Open(ctx)
	if err != nil {
		return nil, nil, err
	}
	ch := mesh.NewChannel(stream, 0)
	return stream, ch, ch.Send(&pb.PeerOpen{Kind: pb.PeerOpen_ARTIFACT})
}

// repair makes what the log says of us true.
func (s *Stock) repair(ctx context.Context) {
	for _, a := range s.conf.Machine.Artifacts() {
		d := blob.Digest(a.GetDigest())
		_, has := s.store.Size(d)
		says := slices.Contains(a.GetHolders(), s.conf.Name)
		if !has && s.fetch(ctx, a) {
			has = true
		}
		if has == says || ctx.Err() != nil {
			continue
		}
		o, err := s.conf.Commands.Propose(ctx, &pb.Command{Body: &pb.Command_HoldArtifact{HoldArtifact: &pb.HoldArtifact{
			Digest: a.GetDigest(), Holder: s.conf.Name, Lost: !has,
		}}})
		if err = errors.Join(err, o.Err); err != nil && ctx.Err() == nil {
			s.conf.Log.Warn("who has an artifact is not noted", obs.Err, err)
		}
	}
}

// fetch gets an artifact from one of its holders.
func (s *Stock) fetch(ctx context.Context, a *pb.Artifact) bool {
	for _, m := range s.others() {
		if slices.Contains(a.GetHolders(), m.Name) && s.pull(ctx, pull{blob.Digest(a.GetDigest()), m.Addr}) == nil {
			return true
		}
	}
	return false
}

// sweep removes files that no entry has named for a day, as we have seen it.
func (s *Stock) sweep(now time.Time) {
	all, err := s.store.List()
	if err != nil {
		s.conf.Log.Warn("the artifacts can't be listed", obs.Err, err)
		return
	}
	named := make(map[blob.Digest]bool)
	for _, a := range s.conf.Machine.Artifacts() {
		named[blob.Digest(a.GetDigest())] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range all {
		since, known := s.orphan[b.Digest]
		switch {
		case named[b.Digest]:
			delete(s.orphan, b.Digest)
		case !known:
			s.orphan[b.Digest] = now
		case now.Sub(since) > grace:
			delete(s.orphan, b.Digest)
			if err := s.store.Remove(b.Digest); err != nil {
				s.conf.Log.Warn("an artifact that nobody needs stays", obs.Err, err)
			}
		}
	}
}

// Give answers one pull of another coordinator.
func (s *Stock) Give(ctx context.Context, ch *mesh.Channel) {
	if err := s.store.Serve(ctx, ch); err != nil {
		s.conf.Log.Debug("giving an artifact", obs.Err, err)
	}
}

// Serve answers the pulls of an agent until its session ends.
func (s *Stock) Serve(ctx context.Context, session mesh.Session) {
	defer session.Close("session over")
	id, err := trust.IdentityOf(session.Peer())
	if err != nil || !s.enter(id.Name) {
		session.Close("too many sessions")
		return
	}
	defer s.leave(id.Name)
	defer context.AfterFunc(ctx, func() { session.Close("the coordinator stops") })()
	var streams sync.WaitGroup
	defer streams.Wait()
	slots := make(chan struct{}, maxStreams/maxOfOne)
	for {
		stream, err := session.Accept(ctx)
		if err != nil {
			return
		}
		// A denial may have come since the handshake.
		if _, err := s.conf.Endpoint.Verify(session.Chain(), x509.ExtKeyUsageClientAuth, trust.Agent); err != nil {
			session.Close("denied")
			return
		}
		select {
		case slots <- struct{}{}:
			streams.Go(func() {
				defer func() { <-slots }()
				defer func() { _ = stream.Close() }()
				s.answer(ctx, stream)
			})
		default:
			_ = stream.Close()
		}
	}
}

func (s *Stock) answer(ctx context.Context, stream mesh.Stream) {
	ch := mesh.NewChannel(stream, 1<<10)
	var open pb.StreamOpen
	if ch.SetReceiveDeadline(time.Now().Add(5*time.Second)) != nil || ch.Receive(&open) != nil || open.GetKind() != pb.StreamOpen_ARTIFACT {
		return
	}
	s.Give(ctx, ch)
}

func (s *Stock) enter(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := 0
	for _, n := range s.guests {
		all += n
	}
	if all >= maxSessions || s.guests[name] >= maxOfOne {
		return false
	}
	s.guests[name]++
	return true
}

func (s *Stock) leave(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.guests[name]--; s.guests[name] == 0 {
		delete(s.guests, name)
	}
}

func rest(ctx context.Context, t time.Duration) error {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

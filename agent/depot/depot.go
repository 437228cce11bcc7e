// Package depot gets the artifacts that an agent needs, so that each crosses the WAN
// once for a site: one agent, whom all agree upon by the artifact's digest, pulls it
// from a coordinator, and the others pull it from whoever of the site has it.
//
// What the others say is hearsay: every chunk is compared, and the whole has the
// digest or is not used (see pkg/blob). Who serves garbage is left alone for a while.
package depot

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/pkg/blob"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	// asked is how many of the site are asked for an artifact: the first in its
	// order. Whoever pulls it from a coordinator is among them.
	askedAtMost = 8
	askTimeout  = 3 * time.Second
	lookEvery   = 500 * time.Millisecond
	// restAfter is how long who has failed is not asked again; banned is how long who
	// has served garbage is not.
	restAfter = 10 * time.Second
	banned    = 10 * time.Minute
	// wantedFor is how long we go on fetching for others who do not ask any more.
	wantedFor = 15 * time.Second
	patience  = 3  // failures in a row before it is somebody else's turn
	maxWanted = 16 // artifacts that others want of us at once
	// maxJobs bounds what is remembered of what others have wanted: who asks for
	// thousands of digests has made them up.
	maxJobs  = 256
	fetchers = 2 // of them, how many we fetch at once
)

// Site is the other agents of the site.
type Site interface {
	// Alive are those that are heard.
	Alive() []fleet.AgentName
	Ask(ctx context.Context, agent fleet.AgentName, c *pb.SiteCall) (*pb.SiteReply, error)
	// Source is that agent's store.
	Source(agent fleet.AgentName) blob.Source
}

// Config is what a Depot needs.
type Config struct {
	Agent        fleet.AgentName
	Store        *blob.Store
	Site         Site          // nil: there are no others
	Coordinators []blob.Source // tried in turn
	// Linked reports whether a coordinator is reached, as far as we know.
	Linked func() bool
	Log    *slog.Logger
}

// Depot gets artifacts. It is safe for concurrent use.
type Depot struct {
	conf   Config
	wanted chan blob.Digest

	mu   sync.Mutex
	jobs map[blob.Digest]*job
	bans map[fleet.AgentName]time.Time // until when
}

// job is an artifact that is being pulled from a coordinator, or was.
type job struct {
	turn  chan struct{} // held by who pulls
	asked time.Time     // last, by another agent
	busy  bool          // it is queued or pulled for others
	err   error         // of the last attempt
	at    time.Time     // of its end
}

// New is a depot. Run it if there is a site.
func New(c Config) *Depot {
	return &Depot{conf: c, wanted: make(chan blob.Digest, maxWanted), jobs: make(map[blob.Digest]*job), bans: make(map[fleet.AgentName]time.Time)}
}

// Run fetches what others of the site have asked us to, until ctx ends.
func (d *Depot) Run(ctx context.Context) error {
	var fetching sync.WaitGroup
	defer fetching.Wait()
	for range fetchers {
		fetching.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case digest := <-d.wanted:
					d.fetchForOthers(ctx, digest)
				}
			}
		})
	}
	<-ctx.Done()
	return ctx.Err()
}

// fetchForOthers pulls an artifact for as long as somebody asks for it.
func (d *Depot) fetchForOthers(ctx context.Context, digest blob.Digest) {
	j := d.job(digest)
	defer func() {
		d.mu.Lock()
		j.busy = false
		d.mu.Unlock()
	}()
	for {
		err := d.direct(ctx, digest, nil)
		d.mu.Lock()
		nobody := time.Since(j.asked) > wantedFor
		d.mu.Unlock()
		if err == nil || nobody || fault.Is(err, fault.NotFound) || rest(ctx, lookEvery) != nil {
			return
		}
	}
}

func (d *Depot) got(digest blob.Digest, from string) {
	size, _ := d.conf.Store.Size(digest)
	d.conf.Log.Info("artifact fetched", "digest", string(digest), obs.Peer, from, "bytes", size)
}

func (d *Depot) job(digest blob.Digest) *job {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.jobIn(digest)
}

// jobIn is job for one who holds mu.
func (d *Depot) jobIn(digest blob.Digest) *job {
	j := d.jobs[digest]
	if j == nil {
		d.tidy()
		j = &job{turn: make(chan struct{}, 1), at: time.Now()} // it has begun: tidy leaves it for a while
		d.jobs[digest] = j
	}
	return j
}

// tidy forgets what was long over. The caller holds mu.
func (d *Depot) tidy() {
	for digest, j := range d.jobs {
		if !j.busy && len(j.turn) == 0 && time.Since(j.at) > banned {
			delete(d.jobs, digest)
		}
	}
}

// direct pulls an artifact from a coordinator, one at a time: who waits finds it there.
func (d *Depot) direct(ctx context.Context, digest blob.Digest, told func(have, size int64)) error {
	j := d.job(digest)
	select {
	case j.turn <- struct{}{}:
		defer func() { <-j.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	err := fault.Wrap(fault.NotFound, "fetch the artifact "+string(digest), errors.New("no coordinator has it"))
	for _, c := range d.conf.Coordinators {
		pulled := d.conf.Store.Pull(ctx, digest, c, told)
		if pulled == nil {
			d.got(digest, c.Name)
			err = nil
			break
		}
		if !fault.Is(pulled, fault.NotFound) {
			err = pulled
		}
	}
	d.mu.Lock()
	j.err, j.at = err, time.Now()
	d.mu.Unlock()
	return err
}

// Get gets an artifact into the store and returns when it is there. While nobody can
// give it, it waits, until ctx ends: then the error says for what. An artifact that no
// coordinator knows is an error of kind NotFound. Told may be nil.
func (d *Depot) Get(ctx context.Context, digest blob.Digest, told func(have, size int64)) error {
	return d.get(ctx, digest, told, true)
}

// Try is Get for who has another way: it does not wait for a coordinator to be
// reached.
func (d *Depot) Try(ctx context.Context, digest blob.Digest, told func(have, size int64)) error {
	return d.get(ctx, digest, told, false)
}

func (d *Depot) get(ctx context.Context, digest blob.Digest, told func(have, size int64), patient bool) error {
	failed := make(map[fleet.AgentName]failure)
	for {
		if _, has := d.conf.Store.Size(digest); has {
			return nil
		}
		waits, err := d.step(ctx, digest, told, failed)
		switch {
		case err == nil && !waits:
			continue
		case ctx.Err() != nil:
			return fault.Wrap(fault.KindOf(ctx.Err()), fmt.Sprintf("get the artifact %s: %s", digest, reason(failed)), ctx.Err())
		case final(err), err != nil && !patient:
			return err
		}
		if rest(ctx, lookEvery) != nil {
			continue // and say why
		}
	}
}

// final reports whether waiting does not help.
func final(err error) bool {
	return fault.Is(err, fault.NotFound) || fault.Is(err, fault.TooLarge)
}

// failure is why somebody did not get an artifact, when, and how often in a row.
type failure struct {
	err   error
	at    time.Time
	times int
}

// again is f with one failure more. Who has a part of it already goes on best, so one
// failure is not the end of it.
func (f failure) again(err error) failure {
	if time.Since(f.at) > restAfter {
		f.times = 0
	}
	return failure{err, time.Now(), f.times + 1}
}

// rests reports whether somebody else shall try now.
func (f failure) rests() bool {
	return f.err != nil && time.Since(f.at) < restAfter && (f.times >= patience || fault.Is(f.err, fault.NotFound))
}

func reason(failed map[fleet.AgentName]failure) string {
	last := failure{err: fault.New(fault.Unavailable, "", "no agent of the site has it, and none reaches a coordinator")}
	for _, f := range failed {
		if f.at.After(last.at) {
			last = f
		}
	}
	return last.err.Error()
}

// step does the next thing that can be done: pull it from who has it, from a
// coordinator if that is ours to do, or ask who shall. It reports whether the caller
// waits a moment before the next one; the error says for what.
func (d *Depot) step(ctx context.Context, digest blob.Digest, told func(have, size int64), failed map[fleet.AgentName]failure) (waits bool, err error) {
	order := d.order(digest)
	states := d.poll(ctx, digest, order)
	for _, name := range order {
		if states[name].GetState() != pb.ArtifactState_HAS {
			continue
		}
		from := d.conf.Site.Source(name)
		err = d.conf.Store.Pull(ctx, digest, from, told)
		if err == nil {
			d.got(digest, from.Name)
			return false, nil
		}
		d.conf.Log.Warn("an agent of the site did not give an artifact", obs.Peer, string(name), obs.Err, err)
		if fault.Is(err, fault.TooLarge) {
			return false, err
		}
		if fault.Is(err, fault.Untrusted) {
			d.ban(name)
		}
	}
	for _, name := range order {
		if states[name].GetState() == pb.ArtifactState_FETCHING {
			d.ask(ctx, name, digest, true) // we still want it
			return true, nil
		}
	}
	who, err := d.owner(order, states, failed)
	switch {
	case err != nil:
		return true, err
	case who == d.conf.Agent:
		if err = d.direct(ctx, digest, told); err != nil {
			failed[who] = failed[who].again(err)
		}
		return err != nil, nil
	}
	s := d.ask(ctx, who, digest, true)
	if s.GetState() == pb.ArtifactState_FAILED || s == nil {
		failed[who] = failed[who].again(wire.FromFault(cmp.Or(s.GetKind(), string(fault.Unavailable)), cmp.Or(s.GetError(), "agent "+string(who)+" does not answer"), ""))
	}
	return true, nil
}

// owner is who shall pull an artifact from a coordinator: the first that reaches one
// and has not just failed. The error says why there is none.
func (d *Depot) owner(order []fleet.AgentName, states map[fleet.AgentName]*pb.ArtifactState, failed map[fleet.AgentName]failure) (fleet.AgentName, error) {
	unknown, tried := true, false
	for _, name := range order {
		if s := states[name]; !s.GetLinked() || s.GetState() == pb.ArtifactState_HAS { // it has it, and did not give it
			continue
		}
		f := failed[name]
		if !f.rests() {
			return name, nil
		}
		tried = true
		unknown = unknown && fault.Is(f.err, fault.NotFound)
	}
	if tried && unknown {
		return "", fault.New(fault.NotFound, "get an artifact", "no coordinator has it").
			WithHint("add it with: chiba artifact add FILE")
	}
	return "", fault.New(fault.Unavailable, "get an artifact", reason(failed))
}

// order is the agents that are heard, and we, as they come for this artifact
// (rendezvous hashing): all who hear the same have the same order. Only the first
// count.
func (d *Depot) order(digest blob.Digest) []fleet.AgentName {
	all := []fleet.AgentName{d.conf.Agent}
	if d.conf.Site != nil {
		all = append(all, slices.DeleteFunc(d.conf.Site.Alive(), d.isBanned)...)
	}
	weight := func(n fleet.AgentName) []byte {
		sum := sha256.Sum256([]byte(string(n) + "\x00" + string(digest)))
		return sum[:]
	}
	slices.SortFunc(all, func(a, b fleet.AgentName) int { return bytes.Compare(weight(b), weight(a)) })
	first := all[:min(len(all), askedAtMost)]
	if !slices.Contains(first, d.conf.Agent) {
		first = append(slices.Clone(first), d.conf.Agent)
	}
	return first
}

// poll asks everybody how they stand with an artifact. Who does not answer is not in
// it.
func (d *Depot) poll(ctx context.Context, digest blob.Digest, order []fleet.AgentName) map[fleet.AgentName]*pb.ArtifactState {
	states := make(map[fleet.AgentName]*pb.ArtifactState, len(order))
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, name := range order {
		if name == d.conf.Agent {
			mu.Lock()
			states[name] = &pb.ArtifactState{Linked: d.conf.Linked()}
			mu.Unlock()
			continue
		}
		asking.Go(func() {
			if s := d.ask(ctx, name, digest, false); s != nil {
				mu.Lock()
				defer mu.Unlock()
				states[name] = s
			}
		})
	}
	asking.Wait()
	return states
}

// ask asks one agent; nil: it does not answer.
func (d *Depot) ask(ctx context.Context, name fleet.AgentName, digest blob.Digest, fetch bool) *pb.ArtifactState {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	reply, err := d.conf.Site.Ask(ctx, name, &pb.SiteCall{Body: &pb.SiteCall_Artifact{Artifact: &pb.ArtifactAsk{Digest: string(digest), Fetch: fetch}}})
	if err != nil {
		d.conf.Log.Debug("an agent of the site does not say whether it has an artifact", obs.Peer, string(name), obs.Err, err)
		return nil
	}
	return reply.GetArtifact()
}

// Answer answers what another agent asks.
func (d *Depot) Answer(q *pb.ArtifactAsk) (*pb.ArtifactState, error) {
	digest, err := blob.ParseDigest(q.GetDigest())
	if err != nil {
		return nil, err
	}
	s := &pb.ArtifactState{Linked: d.conf.Linked()}
	if _, has := d.conf.Store.Size(digest); has {
		s.State = pb.ArtifactState_HAS
		return s, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	j := d.jobs[digest]
	if j == nil && !q.GetFetch() {
		return s, nil // who only asks leaves nothing behind
	}
	if j == nil && (len(d.jobs) >= maxJobs || len(d.wanted) == cap(d.wanted)) {
		return tooMany(s), nil
	}
	j = d.jobIn(digest)
	hasFailed := j.err != nil && time.Since(j.at) < restAfter/2
	if q.GetFetch() {
		j.asked = time.Now()
		if !j.active() && !hasFailed {
			select {
			case d.wanted <- digest:
				j.busy = true
			default:
				return tooMany(s), nil
			}
		}
	}
	switch {
	case j.active() && s.GetLinked():
		s.State = pb.ArtifactState_FETCHING
	case hasFailed:
		s.State = pb.ArtifactState_FAILED
		s.Kind, s.Error, _ = wire.ToFault(j.err)
	}
	return s, nil
}

func tooMany(s *pb.ArtifactState) *pb.ArtifactState {
	s.State, s.Kind, s.Error = pb.ArtifactState_FAILED, string(fault.Unavailable), "it fetches too many others already"
	return s
}

// active reports whether it is being fetched, or will be.
func (j *job) active() bool { return j.busy || len(j.turn) > 0 }

// Serve gives a piece of an artifact to another agent.
func (d *Depot) Serve(ctx context.Context, ch *mesh.Channel) error {
	return d.conf.Store.Serve(ctx, ch)
}

func (d *Depot) ban(name fleet.AgentName) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bans[name] = time.Now().Add(banned)
	d.conf.Log.Error("an agent of the site serves garbage and is left alone", obs.Peer, string(name))
}

func (d *Depot) isBanned(name fleet.AgentName) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Now().Before(d.bans[name])
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

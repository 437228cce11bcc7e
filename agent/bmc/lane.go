// Package bmc is the agent's way to its BMCs: one Lane for each. All traffic to
// a BMC, of every consumer, passes its lane, which paces it: writes one after
// the other, reads a few at a time, the more urgent first, none at all while
// the BMC does not answer. On top of that a lane knows what SCL's elements,
// settings and commands mean on a BMC, whatever its make.
//
// A lane never waits for another lane, and nothing in it waits without a bound.
package bmc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// Priority orders who waits for a BMC. The more urgent goes first.
type Priority int

// The priorities, most urgent first.
const (
	Person Priority = iota
	Action
	Monitor
	Inventory
	priorities int = iota
)

// Vault keeps what to log in with on a BMC. Safe for concurrent use.
type Vault interface {
	redfish.Logins
	// Propose stores next durably as the first candidate, before what is
	// there. It is called before a password is changed on the BMC; Prove ends
	// the doubt.
	Propose(bmc string, next redfish.Credentials) error
}

// Digests remember which password was last set for a user, without keeping it:
// a password can't be read back from a BMC. Safe for concurrent use.
type Digests interface {
	// Matches reports whether password is what was last set; known is false if
	// nothing was set by us.
	Matches(bmc, user string, password fleet.Secret) (same, known bool, err error)
	// Store remembers that password was set.
	Store(bmc, user string, password fleet.Secret) error
}

// Config describes one lane. The zero values of the durations mean the default.
type Config struct {
	Node   fleet.NodeName
	BMC    redfish.Config // Logins is taken from Vault
	System string         // the id of the computer system; "": the first one
	Vault  Vault
	// Rack begins the BMC.Context of every agent of the rack, and of no other: what
	// one of them has left behind is ours to remove. "": only what has our own.
	Rack string
	// Digests may be nil: then every password is set anew.
	Digests Digests

	Streams int           // reads at once over HTTP/2, at most; default what the BMC's profile says
	Most    func() int    // reads at once in any case, asked again and again; 0 or nil: nobody says
	Poll    time.Duration // between two looks at what a write did, default 1 s
	Settle  time.Duration // how long a power change may take, default 2 min
	Rest    time.Duration // of the breaker after its first opening, default 2 s

	Now    func() time.Time // nil: time.Now
	Jitter func() float64   // in [0,1); nil: math/rand
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&c.Poll, time.Second)
	set(&c.Settle, 2*time.Minute)
	set(&c.Rest, 2*time.Second)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Jitter == nil {
		c.Jitter = rand.Float64
	}
	c.BMC.Logins, c.BMC.Now = c.Vault, c.Now
	return c
}

// Lane is the one way to one BMC. It is safe for concurrent use.
type Lane struct {
	cfg    Config
	client *redfish.Client
	reads  *gate
	writes *gate
	brk    *breaker

	mu      sync.Mutex
	where   *places
	chassis []redfish.Link
	manager redfish.Link // where the system names none
	plan    *samplingPlan
	log     *logService
	allowed map[string][]string // reset types by the action's target
	recent  recentSystem
	date    time.Time // that the BMC last told, by its own clock
	budget  *budget
	stats   Stats
	cache   *redfish.Cache // for the inventory
	refusal error          // the last failure to log in or to trust, nil once it works
}

// New makes a lane and touches no network.
func New(cfg Config) (*Lane, error) {
	if cfg.Vault == nil {
		return nil, errors.New("bmc: no vault")
	}
	l := &Lane{
		cfg:     cfg.withDefaults(),
		reads:   newGate(),
		writes:  newGate(),
		budget:  newBudget(),
		allowed: map[string][]string{},
	}
	l.brk = newBreaker(l.cfg.Rest, l.cfg.Now, l.cfg.Jitter)
	l.cfg.BMC.Observe = l.observe
	client, err := redfish.New(l.cfg.BMC)
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", cfg.Node, err)
	}
	l.client, l.cache = client, redfish.NewCache(client, inventoryCache)
	return l, nil
}

// Node is the name of the server behind the lane.
func (l *Lane) Node() fleet.NodeName { return l.cfg.Node }

// Close deletes the session on the BMC. Give it a context that is alive.
func (l *Lane) Close(ctx context.Context) error {
	if err := l.client.Close(ctx); err != nil {
		return l.named(err)
	}
	return nil
}

// State says whether the agent can work with the BMC, and why not, as of the
// last exchange. Before the first one it is Ready.
func (l *Lane) State() (state fleet.NodeState, reason string) {
	l.mu.Lock()
	err := l.refusal
	l.mu.Unlock()
	switch {
	case fault.Is(err, fault.Untrusted):
		return fleet.Untrusted, err.Error()
	case fault.Is(err, fault.Denied):
		return fleet.Refused, err.Error()
	}
	if err := l.brk.cause(); err != nil {
		return fleet.Unreachable, err.Error()
	}
	return fleet.Ready, ""
}

// fetch is one paced read.
func (l *Lane) fetch(ctx context.Context, prio Priority, uri string) (body []byte, err error) {
	err = l.paced(ctx, prio, l.reads, func() error {
		body, err = l.client.Fetch(ctx, uri)
		return err
	})
	return body, err
}

// write is one paced write; there is never more than one.
func (l *Lane) write(ctx context.Context, prio Priority, do func() error) error {
	return l.paced(ctx, prio, l.writes, do)
}

func (l *Lane) patch(ctx context.Context, prio Priority, uri redfish.Link, body any) error {
	var reply *redfish.Reply
	err := l.write(ctx, prio, func() (err error) {
		reply, err = l.client.Patch(ctx, string(uri), body)
		return err
	})
	return l.finish(ctx, prio, reply, err)
}

func (l *Lane) post(ctx context.Context, prio Priority, uri string, body any) error {
	var reply *redfish.Reply
	err := l.write(ctx, prio, func() (err error) {
		reply, err = l.client.Post(ctx, uri, body)
		return err
	})
	return l.finish(ctx, prio, reply, err)
}

// finish waits for the task that a write has begun, if it has. Nobody is kept
// from the BMC meanwhile.
func (l *Lane) finish(ctx context.Context, prio Priority, reply *redfish.Reply, err error) error {
	if err != nil {
		return err
	}
	task, begun := reply.TaskOf()
	if !begun {
		return nil
	}
	watch := redfish.Watch{Deadline: l.cfg.Settle, Jitter: l.cfg.Jitter}
	return l.named(redfish.WaitTask(ctx, asker{l, prio}, task, watch).Err())
}

// asker reads at a pace, for whoever needs more than a body.
type asker struct {
	lane *Lane
	prio Priority
}

// Ask implements redfish.Asker.
func (a asker) Ask(ctx context.Context, uri string) (reply *redfish.Reply, err error) {
	err = a.lane.paced(ctx, a.prio, a.lane.reads, func() error {
		reply, err = a.lane.client.Ask(ctx, uri)
		return err
	})
	return reply, err
}

// paced runs do when it is its turn and the breaker lets it.
func (l *Lane) paced(ctx context.Context, prio Priority, g *gate, do func() error) error {
	if err := l.brk.refuses(); err != nil { // do not even queue
		return l.named(err)
	}
	if err := g.enter(ctx, prio); err != nil {
		return l.named(err)
	}
	defer g.leave()
	if err := l.brk.begin(); err != nil { // it may have opened meanwhile
		return l.named(err)
	}
	err := do()
	l.brk.end(err)
	l.note(err)
	return l.named(err)
}

// note keeps whether the BMC lets us in.
func (l *Lane) note(err error) {
	var answered *redfish.StatusError
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case redfish.ChangeRequired(err):
		l.refusal = err
	case err == nil || errors.As(err, &answered):
		l.refusal = nil
	case fault.Is(err, fault.Untrusted) || fault.Is(err, fault.Denied):
		l.refusal = err
	}
}

// named puts the node's name on an error that carries none.
func (l *Lane) named(err error) error {
	var known *fault.Error
	if err == nil || !errors.As(err, &known) || known.Node != "" {
		return err
	}
	return &fault.Error{Kind: known.Kind, Node: l.cfg.Node, Err: err}
}

package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/agent/intent"
	"github.com/chiba-mesh/chiba/agent/site"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	whereTimeout = 4 * time.Second
	whereAtOnce  = 16
	// mostScript is the largest script that is brought along with an intent: a call
	// has 1 MiB.
	mostScript = 900 << 10
)

// others are the agents of the site, as far as one asks them.
type others interface {
	Peers() []site.Peer
	Ask(ctx context.Context, agent fleet.AgentName, c *pb.SiteCall) (*pb.SiteReply, error)
}

// places remembers in which racks nodes of other racks were found. It is a hint: who is
// asked says whether the node is of its rack. The zero value is empty.
type places struct {
	mu    sync.Mutex
	racks map[fleet.NodeName]fleet.RackName
}

func (p *places) of(node fleet.NodeName) fleet.RackName {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.racks[node]
}

func (p *places) set(node fleet.NodeName, rack fleet.RackName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.racks == nil || len(p.racks) >= 1024 {
		p.racks = make(map[fleet.NodeName]fleet.RackName)
	}
	p.racks[node] = rack
}

// pursue asks the agent of another rack to do what was noted, until there is a result
// or it is too late. If ctx ends, what is returned counts for nothing. With before, an
// earlier process may have asked already.
func (a *Agent) pursue(ctx context.Context, i *pb.Intended, before bool) fleet.Result {
	begun := a.now()
	p := &intent.Pursuit{Of: i, Heard: before}
	next, said := intent.Next{}, false
	if a.others == nil {
		next = p.GiveUp(fault.New(fault.Unsupported, "ask another rack", fmt.Sprintf("agent %s has no address for the others of its site", a.cfg.Name)).
			WithHint("give the agents of both racks site_listen in " + ConfigFile))
	}
	for !next.Over {
		if wait(ctx, jittered(next.Pause, a.jitter())); ctx.Err() != nil {
			return fleet.Result{}
		}
		call := &pb.SiteIntent{Intent: i.GetIntent()}
		if next.Script {
			if err := a.attach(call); err != nil {
				next = p.GiveUp(err)
				break
			}
		}
		by, answer, err := a.askRack(ctx, call)
		next = p.Answered(a.now(), by, answer, err)
		if err != nil && !said {
			said = true
			a.log.Warn("another rack is asked in vain, and asked again", obs.Script, i.GetIntent().GetScript(), obs.Node, i.GetIntent().GetOn(), obs.Err, err)
		}
	}
	r := next.Result
	r.Step, r.Started, r.Took = i.GetText(), begun, a.now().Sub(begun)
	return r
}

// jittered is d or up to a half more, so that not all who wait ask at once.
func jittered(d time.Duration, by float64) time.Duration { return d + time.Duration(by*float64(d)/2) }

// attach puts the script into a call, with the order that its authors have signed.
func (a *Agent) attach(call *pb.SiteIntent) error {
	const op = "bring the script along"
	a.standing.mu.Lock()
	defer a.standing.mu.Unlock()
	s := a.standing.scripts[call.GetIntent().GetScript()]
	switch {
	case s == nil || s.GetVersion() != call.GetIntent().GetVersion():
		return fault.New(fault.Canceled, op, "the rule is no longer in force here")
	case len(s.GetSource())+len(s.GetEnvelope()) > mostScript:
		return fault.New(fault.TooLarge, op, fmt.Sprintf("it has more than %d KiB", mostScript>>10)).
			WithHint("the other rack gets it when it reaches a coordinator")
	}
	call.Envelope, call.Source = s.GetEnvelope(), s.GetSource()
	return nil
}

// askRack asks the agents of the rack that has a node, until one answers.
func (a *Agent) askRack(ctx context.Context, call *pb.SiteIntent) (by fleet.AgentName, answer *pb.SiteAnswer, err error) {
	on := fleet.NodeName(call.GetIntent().GetOn())
	rack, err := a.rackOf(ctx, on)
	if err != nil {
		return "", nil, err
	}
	epoch := a.office.claim().Epoch
	call.Grant, call.Local = epoch.Grant, epoch.Local
	var errs []error
	for _, p := range a.agentsOf(rack) {
		reply, err := a.others.Ask(ctx, p.Agent, &pb.SiteCall{Body: &pb.SiteCall_Intent{Intent: call}})
		if err == nil && reply.GetAnswer() != nil {
			return p.Agent, reply.GetAnswer(), nil
		}
		if fault.Is(err, fault.NotFound) { // it is elsewhere by now
			a.places.set(on, "")
		}
		if err == nil {
			err = fault.New(fault.Garbage, "ask agent "+string(p.Agent), "it answers something else")
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		errs = append(errs, fault.New(fault.Unavailable, "ask another rack", fmt.Sprintf("nobody has told where the agent of rack %s listens", rack)))
	}
	return "", nil, fault.Wrap(likeliest(errs), "", errors.Join(errs...))
}

// likeliest is the kind of several failures of one question: if one of them may have
// heard it, it may have been heard.
func likeliest(errs []error) fault.Kind {
	for _, err := range errs {
		if fault.Is(err, fault.Timeout) {
			return fault.Timeout
		}
	}
	return fault.KindOf(errs[0])
}

// agentsOf are the agents of a rack, those that are heard first. Its standby answers
// that it is one.
func (a *Agent) agentsOf(rack fleet.RackName) []site.Peer {
	rank := func(p site.Peer) int {
		if p.Alive {
			return 0
		}
		return 1
	}
	all := slices.DeleteFunc(a.others.Peers(), func(p site.Peer) bool { return p.Rack != rack })
	slices.SortStableFunc(all, func(x, y site.Peer) int { return cmp.Compare(rank(x), rank(y)) })
	return all
}

// rackOf is the rack of a node that is not of ours. The first time all racks of the
// site are asked.
func (a *Agent) rackOf(ctx context.Context, node fleet.NodeName) (fleet.RackName, error) {
	if rack := a.places.of(node); rack != "" {
		return rack, nil
	}
	const op = "find the rack of a node"
	found, silent := a.askWhere(ctx, node)
	switch racks := slices.Sorted(maps.Keys(found)); {
	case len(racks) == 1:
		a.places.set(node, racks[0])
		return racks[0], nil
	case len(racks) > 1:
		return "", fault.New(fault.Conflict, op, fmt.Sprintf("racks %s and %s both say that they have %s", racks[0], racks[1], node)).
			WithHint("see: chiba get nodes")
	case len(silent) > 0:
		return "", fault.New(fault.Unavailable, op, fmt.Sprintf("no rack that answers has %s, and these agents do not: %s", node, strings.Join(silent, " ")))
	}
	return "", fault.New(fault.NotFound, op, fmt.Sprintf("no rack of the site has %s", node)).WithHint("see: chiba get nodes")
}

// askWhere asks every agent of the other racks whether a node is of its rack.
func (a *Agent) askWhere(ctx context.Context, node fleet.NodeName) (found map[fleet.RackName]bool, silent []string) {
	ctx, cancel := context.WithTimeout(ctx, whereTimeout)
	defer cancel()
	found = make(map[fleet.RackName]bool)
	var mu sync.Mutex
	var asking sync.WaitGroup
	places := make(chan struct{}, whereAtOnce)
	for _, p := range a.others.Peers() {
		if p.Rack == a.cfg.Rack {
			continue
		}
		asking.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			reply, err := a.others.Ask(ctx, p.Agent, &pb.SiteCall{Body: &pb.SiteCall_Where{Where: &pb.SiteWhere{Node: string(node)}}})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				silent = append(silent, string(p.Agent))
			case reply.GetHere().GetHere():
				found[p.Rack] = true
			}
		})
	}
	asking.Wait()
	slices.Sort(silent)
	return found, silent
}

package intent

import (
	"fmt"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	firstPause = 500 * time.Millisecond
	mostPause  = 15 * time.Second
	// whileDoing is the pause between two questions about what is being done; the one
	// who does it keeps each waiting for a while.
	whileDoing = 500 * time.Millisecond
)

// Pursuit is the asking for one intent until it has a result. It is not safe for
// concurrent use.
type Pursuit struct {
	Of    *pb.Intended
	Heard bool // somebody may have it: it can't be taken for not done

	pause  time.Duration
	script bool  // it was asked for with its script
	why    error // why it was not done, as last told
}

// Next is what is to be done about a pursuit.
type Next struct {
	Over   bool
	Result fleet.Result  // if it is over
	Script bool          // ask again at once, with the script
	Pause  time.Duration // before it is asked for again
}

// Answered takes what came of a question, an answer or an error. An error of kind
// Timeout means that it may have been heard.
func (p *Pursuit) Answered(now time.Time, by fleet.AgentName, a *pb.SiteAnswer, err error) Next {
	if err != nil {
		return p.failed(now, err)
	}
	switch a.GetState() {
	case pb.SiteAnswer_DONE:
		r := wire.FromResult(a.GetResult())
		r.Node, r.By = fleet.NodeName(p.Of.GetIntent().GetOn()), string(by)
		return Next{Over: true, Result: r}
	case pb.SiteAnswer_REFUSED:
		why := wire.FromFault(a.GetKind(), a.GetError(), a.GetHint())
		return p.over(fleet.Failed, fault.Wrap(fault.KindOf(why), "ask agent "+string(by), why))
	case pb.SiteAnswer_SCRIPT:
		if !p.script {
			p.script = true
			return Next{Script: true}
		}
		return p.failed(now, fault.New(fault.Unavailable, "ask agent "+string(by), "it does not know the script"))
	case pb.SiteAnswer_DOING:
	}
	p.Heard, p.pause, p.script = true, 0, false
	p.why = fault.New(fault.Unavailable, "", string(by)+" has begun it and has not told how it ended")
	return p.pauseFor(now, whileDoing)
}

// GiveUp ends a pursuit that can't go on.
func (p *Pursuit) GiveUp(why error) Next {
	if p.Heard {
		return p.over(fleet.Unknown, why)
	}
	return p.over(fleet.Failed, why)
}

func (p *Pursuit) failed(now time.Time, err error) Next {
	p.Heard = p.Heard || fault.Is(err, fault.Timeout)
	p.why, p.script = err, false
	p.pause = min(max(2*p.pause, firstPause), mostPause)
	return p.pauseFor(now, p.pause)
}

// Ends is when nobody is asked any more.
func (p *Pursuit) Ends() time.Time {
	until := time.UnixMilli(p.Of.GetIntent().GetUntilUnixMs())
	if p.Heard {
		until = until.Add(Skew + time.Duration(p.Of.GetTakesMs())*time.Millisecond)
	}
	return until
}

func (p *Pursuit) pauseFor(now time.Time, d time.Duration) Next {
	if now.Add(d).Before(p.Ends()) {
		return Next{Pause: d}
	}
	on := p.Of.GetIntent().GetOn()
	hint := fmt.Sprintf("see whether its rack works: chiba get agents; look at %s: chiba show %s; do it yourself if it is still wanted", on, on)
	if p.Heard {
		return p.over(fleet.Unknown, fault.New(fault.Timeout, "", fmt.Sprintf("it may have been done, and nobody tells: %v", p.why)).WithHint(hint))
	}
	return p.over(fleet.Failed, fault.New(fault.Timeout, "", fmt.Sprintf("not done: no agent took it within %s: %v", ValidFor, p.why)).WithHint(hint))
}

func (p *Pursuit) over(status fleet.Status, why error) Next {
	return Next{Over: true, Result: fleet.Result{
		Node: fleet.NodeName(p.Of.GetIntent().GetOn()), Step: p.Of.GetText(), Status: status,
		Kind: string(fault.KindOf(why)), Error: why.Error(), Hint: fault.HintOf(why),
	}}
}

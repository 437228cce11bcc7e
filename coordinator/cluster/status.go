package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/coordinator/raftnode"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// Silent are the coordinators that do not say who is connected to them, by name.
func (c *Cluster) Silent() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []string
	for name, o := range c.others {
		if o.silent() {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// Remark says why what is told here may not be the latest; "" if it is.
func (c *Cluster) Remark() string {
	s := c.conf.Node.Status()
	switch {
	case s.State == raftnode.Leader:
		return ""
	case s.Leader == "" && s.Behind == 0:
		return "coordinator " + c.conf.Name + " has met no leader since it was started: what it tells may be old, and nothing can be changed"
	case s.Leader == "" && s.Behind > behindAfter:
		return fmt.Sprintf("coordinator %s reaches no majority of the coordinators: what it tells is %s old, and nothing can be changed", c.conf.Name, s.Behind.Round(time.Second))
	case s.Behind > behindAfter:
		return fmt.Sprintf("coordinator %s is %s behind", c.conf.Name, s.Behind.Round(time.Second))
	}
	return ""
}

// CatchUp returns when all that was committed before is known here; see
// raftnode.Node.CatchUp.
func (c *Cluster) CatchUp(ctx context.Context, verified bool) error {
	return c.conf.Node.CatchUp(ctx, verified)
}

// Remove takes a coordinator out of the group.
func (c *Cluster) Remove(ctx context.Context, name string) error {
	return c.conf.Node.Remove(ctx, name)
}

// Coordinators are the members of the group as they are seen from here, by name.
func (c *Cluster) Coordinators() []*pb.CoordinatorStatus {
	s := c.conf.Node.Status()
	list := make([]*pb.CoordinatorStatus, 0, len(s.Members))
	for _, m := range s.Members {
		one := &pb.CoordinatorStatus{Name: m.Name, Voter: m.Voter}
		if c.conf.Peers != nil {
			one.Address = m.Addr
		}
		if m.Name == c.conf.Name {
			c.describe(one, s)
		} else {
			c.describeOther(one, s.Leader)
		}
		list = append(list, one)
	}
	return list
}

func (c *Cluster) describe(one *pb.CoordinatorStatus, s raftnode.Status) {
	one.Role, one.Answering, one.BehindMs = strings.ToLower(s.State), true, s.Behind.Milliseconds()
	_, one.Applied = c.conf.Node.Hashes()
	for _, a := range c.conf.Hub.Agents() {
		if a.GetConnected() {
			one.Agents++
		}
	}
	switch {
	case s.Damage != nil:
		one.Problem, one.Next = s.Damage.Error(), fault.HintOf(s.Damage)
	case c.alone(s):
		one.Problem, one.Next = "its state differs from those of all others", begins(one.GetName())
	case s.Leader == "":
		one.Problem = "it reaches no majority"
	}
}

func (c *Cluster) describeOther(one *pb.CoordinatorStatus, leader string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.others[one.GetName()]
	if o == nil || o.silent() || o.heard.IsZero() {
		one.Problem = "it does not answer"
		return
	}
	one.Role = "follower"
	if one.GetName() == leader {
		one.Role = "leader"
	}
	one.BehindMs, one.Applied, one.Agents = o.behind.Milliseconds(), o.applied, int32(len(o.agents))
	if at, bad := c.differ[one.GetName()]; bad {
		one.Problem, one.Next = fmt.Sprintf("its state differs from ours at entry %d", at), begins(one.GetName())
	}
	if o.damage != "" {
		one.Problem, one.Next = o.damage, o.next
	}
}

// begins is how a coordinator gets the state of the others.
func begins(name string) string {
	return "see which of them is right; then chiba coordinator remove " + name + ", empty its state directory, and start it again with --join"
}

// alone reports whether this coordinator has another state than all others, of which
// there are two at least: then it is the one that is wrong.
func (c *Cluster) alone(s raftnode.Status) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(s.Members) > 2 && len(c.differ) == len(s.Members)-1
}

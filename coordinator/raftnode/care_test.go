package raftnode_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/coordinator/raftnode"
)

// voters are the members that have a vote, as m sees them.
func (m *member) voters() (names []string) {
	for _, one := range m.node.Status().Members {
		if one.Voter {
			names = append(names, one.Name)
		}
	}
	return names
}

func careful(t *testing.T) *group {
	t.Helper()
	g := newGroup(t)
	g.stable, g.dead = 2*time.Second, 3*time.Second
	var join []string
	for i := range 3 {
		name := fmt.Sprintf("c%d", i+1)
		g.start(name, 3, join...)
		join = append(join, g.members[name].addr)
	}
	g.ready()
	return g
}

// One that joins has a vote when it has kept up for a while, not before.
func TestAVoteIsGivenToWhoKeepsUp(t *testing.T) {
	t.Parallel()
	g := careful(t)
	_, leader := g.leader()
	g.until("the leader has looked at the others for as long", func() bool { return time.Since(leader.began) > 3*time.Second })
	for i := range 50 {
		g.put(leader, fmt.Sprint("s", i))
	}
	at := time.Now()
	c4 := g.start("c4", 0, leader.addr)
	g.until("it is a member", func() bool { return len(leader.node.Status().Members) == 4 })
	if v := leader.voters(); len(v) != 3 {
		t.Errorf("at once the voters are %v", v)
	}
	g.until("it has a vote", func() bool { return len(leader.voters()) == 4 })
	if took := time.Since(at); took < 2*time.Second {
		t.Errorf("it had its vote after %s", took)
	}
	g.until("it knows", func() bool { return len(c4.voters()) == 4 })
	g.same()
}

// One that does not keep up gets no vote.
func TestNoVoteForWhoIsGone(t *testing.T) {
	t.Parallel()
	g := careful(t)
	_, leader := g.leader()
	g.start("c4", 0, leader.addr)
	g.until("it is a member", func() bool { return len(leader.node.Status().Members) == 4 })
	g.members["c4"].kill()
	g.until("it is taken out", func() bool {
		if v := leader.voters(); len(v) != 3 {
			t.Fatalf("the voters are %v", v)
		}
		return len(leader.node.Status().Members) == 3
	})
}

// One that is dead stays in a group of three, whose majority it is part of; when a
// fourth has come for it, it is taken out.
func TestADeadOneIsTakenOutWhenThereAreEnough(t *testing.T) {
	t.Parallel()
	g := careful(t)
	name, dead := g.follower()
	_, leader := g.leader()
	dead.kill()
	at := time.Now()
	g.until("it is silent for more than long enough", func() bool { return time.Since(at) > 6*time.Second })
	if all := leader.node.Status().Members; len(all) != 3 {
		t.Errorf("of three are left %v", all)
	}
	g.start("c4", 0, leader.addr)
	g.until("the fourth has taken its place", func() bool {
		return len(leader.voters()) == 3 && !contains(leader.node.Status().Members, name) && contains(leader.node.Status().Members, "c4")
	})
	g.put(g.members["c4"], "decided")
	g.same()
}

func contains(all []raftnode.Member, name string) bool {
	for _, m := range all {
		if m.Name == name {
			return true
		}
	}
	return false
}

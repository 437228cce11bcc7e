package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/sim"
)

// pair is a rack with two agents, each process on its own.
type pair struct {
	*cluster
	coordinator, first, second *process
	sim                        *sim.Client
	log                        map[fleet.NodeName][]bmcsim.Request
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{cluster: &cluster{world: newWorld(t)}, log: map[fleet.NodeName][]bmcsim.Request{}}
	p.start("dev", "--only", "sim", "--standby").wait("ready in")
	var err error
	if p.sim, err = sim.Dial(p.dir); err != nil {
		t.Fatal(err)
	}
	p.coordinator = p.start("dev", "--only", "coordinator")
	p.coordinator.wait("ready in")
	p.first = p.start("dev", "--only", "agent")
	p.first.wait("ready in")
	p.second = p.start("dev", "--only", "standby")
	p.second.wait("ready in")
	p.works("agent-r01")
	p.welcome()
	return p
}

// works waits until the coordinators say that an agent works on the rack.
func (p *pair) works(name string) {
	p.t.Helper()
	p.until(name+" works on the rack", func() bool {
		var all []struct{ Name, Role string }
		p.decode(&all, "get", "agents")
		return len(all) == 2 && slices.ContainsFunc(all, func(a struct{ Name, Role string }) bool { return a.Name == name && a.Role == "active" })
	})
}

const (
	firstAccount  = "/redfish/v1/AccountService/Accounts/chiba-agent-r01"
	secondAccount = "/redfish/v1/AccountService/Accounts/chiba-agent-r01b"
)

// welcome waits until every BMC is taken over, for both agents.
func (p *pair) welcome() {
	p.t.Helper()
	p.takenOver()
	p.until("the standby has an account on every BMC", func() bool {
		for _, n := range p.nodes() {
			if !slices.ContainsFunc(p.requests(n), func(r bmcsim.Request) bool { return r.Method == http.MethodPatch && r.Path == secondAccount }) {
				return false
			}
		}
		return true
	})
	p.takenOver()
}

func (p *pair) nodes() (names []fleet.NodeName) {
	p.t.Helper()
	nodes, err := p.sim.Nodes(context.Background())
	if err != nil {
		p.t.Fatal(err)
	}
	for _, n := range nodes {
		names = append(names, n.Name)
	}
	return names
}

// requests are those that a BMC has answered since the first time it was asked for
// them: it remembers the last ones alone, and each time the new ones are added.
func (p *pair) requests(node fleet.NodeName) []bmcsim.Request {
	p.t.Helper()
	all, err := p.sim.Requests(context.Background(), node)
	if err != nil {
		p.t.Fatal(err)
	}
	known := p.log[node]
	for _, r := range all {
		if len(known) == 0 || r.At.After(known[len(known)-1].At) {
			known = append(known, r)
		}
	}
	p.log[node] = known
	return known
}

// tag sets every server's asset tag by a script, and checks that each was set once.
func (p *pair) tag(text string) {
	p.t.Helper()
	p.must("apply", p.file(text+".scl", fmt.Sprintf(`(config "all" (asset-tag %q))`, text)), "--yes")
	for _, n := range p.nodes() {
		written := 0
		for _, r := range p.requests(n) {
			if r.Method == http.MethodPatch && r.Status < 300 && strings.HasPrefix(r.Path, "/redfish/v1/Systems") {
				written++
			}
		}
		if written == 0 {
			p.t.Errorf("the record of %s shows no write of %q", n, text)
		}
	}
}

// The owner dies without a word: its standby works within seconds, and when the
// dead one is back it stands by, is let in again, and can take over in its turn.
func TestTheStandbyTakesOver(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.tag("one")
	p.first.kill()
	killed := time.Now()
	p.second.wait("this agent is active")
	t.Logf("the standby is active %s after kill -9", time.Since(killed).Round(time.Millisecond))
	if took := time.Since(killed); took > 15*time.Second {
		t.Errorf("it took %s", took)
	}
	p.works("agent-r01b")
	p.tag("two")

	p.first = p.start("dev", "--only", "agent")
	p.first.wait("this agent is standby")
	p.until("the first is let in again", func() bool {
		for _, n := range p.nodes() {
			if at := p.after(n, firstAccount, "chiba-agent-r01b"); len(at) < 2 {
				return false
			}
		}
		return true
	})
	p.second.kill()
	p.first.wait("this agent is active")
	p.works("agent-r01")
	p.tag("three")
	if code := p.run("audit", "verify").code; code > 1 {
		t.Errorf("the audit log: %d", code)
	}
}

// after are the changes of a path by a user, as their places in the record.
func (p *pair) after(node fleet.NodeName, path, user string) (at []int) {
	p.t.Helper()
	for i, r := range p.requests(node) {
		if r.Method == http.MethodPatch && r.Path == path && r.User == user && r.Status < 300 {
			at = append(at, i)
		}
	}
	return at
}

// The same while no coordinator is reached. When one is back it learns who owns the
// rack.
func TestTheStandbyTakesOverCutOff(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.coordinator.kill()
	p.first.wait("no link to the coordinators")
	p.second.wait("no link to the coordinators")
	p.first.kill()
	killed := time.Now()
	line := p.second.wait("this agent is active")
	t.Logf("the standby is active %s after kill -9: %s", time.Since(killed).Round(time.Millisecond), line)
	if !strings.Contains(line, "no coordinator is reached") {
		t.Errorf("it says %s", line)
	}
	p.coordinator = p.start("dev", "--only", "coordinator")
	p.coordinator.wait("ready in")
	p.works("agent-r01b")
	p.tag("alone")
}

// The owner is stopped amid its writes, cut off, and wakes when the rack is another's:
// the BMCs refuse it, it yields, and nothing of the old epoch is written after the
// fence.
func TestTheOldOwnerWakes(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	steps := strings.Repeat(` (set-indicator on) (set-indicator off)`, 400)
	p.start("apply", p.file("blink.scl", fmt.Sprintf(`(action ("all")%s)`, steps)), "--yes")
	p.until("it writes", func() bool {
		return slices.ContainsFunc(p.requests("r01-u04"), func(r bmcsim.Request) bool {
			return r.Method == http.MethodPatch && strings.HasPrefix(r.Path, "/redfish/v1/Systems")
		})
	})
	p.coordinator.kill()
	p.first.wait("no link to the coordinators")
	p.second.wait("no link to the coordinators")
	before := len(p.requests("r01-u04"))
	p.until("it goes on writing, cut off", func() bool {
		return slices.ContainsFunc(p.requests("r01-u04")[before:], func(r bmcsim.Request) bool { return r.Method == http.MethodPatch })
	})
	p.signal(p.first, syscall.SIGSTOP)
	stopped := time.Now()
	p.second.wait("this agent is active")
	t.Logf("the standby is active %s after SIGSTOP", time.Since(stopped).Round(time.Millisecond))
	p.until("the old owner is shut out", func() bool {
		for _, n := range p.nodes() {
			if len(p.after(n, firstAccount, "chiba-agent-r01b")) == 0 {
				return false
			}
		}
		return true
	})
	p.signal(p.second, syscall.SIGSTOP) // it tells nobody: the BMCs alone know
	p.signal(p.first, syscall.SIGCONT)
	p.first.wait("a BMC has shut this agent out")
	p.signal(p.second, syscall.SIGCONT)
	if _, yields := p.first.out.findAny(patience, `reason="a BMC has shut it out"`, `reason="agent-r01b in epoch`); !yields {
		t.Error("the old owner does not yield")
	}
	refused := 0
	for _, n := range p.nodes() {
		refused += p.nothingAfterTheFence(n)
	}
	t.Logf("%d writes of the old owner were refused", refused)
	if refused == 0 {
		t.Error("the old owner has not tried to write: nothing was shown")
	}
}

func (p *pair) signal(to *process, s syscall.Signal) {
	p.t.Helper()
	if err := to.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// nothingAfterTheFence checks one BMC's record, from the fence to when the old owner
// is let in again, and counts the old owner's writes that were refused.
func (p *pair) nothingAfterTheFence(node fleet.NodeName) (refused int) {
	p.t.Helper()
	shut := false
	for _, r := range p.requests(node) {
		switch {
		case r.Method == http.MethodPatch && r.Path == firstAccount && r.User == "chiba-agent-r01b" && r.Status < 300:
			if shut {
				return refused
			}
			shut = true
		case !shut || r.User != "chiba-agent-r01" || r.Method == http.MethodGet:
		case r.Status == http.StatusForbidden:
			refused++
		default:
			p.t.Errorf("%s: after the fence the old owner wrote %s %s: %d", node, r.Method, r.Path, r.Status)
		}
	}
	return refused
}

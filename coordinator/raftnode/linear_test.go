package raftnode_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// history is what clients have asked for and were told.
type history struct {
	mu    sync.Mutex
	began time.Time
	all   []porcupine.Operation
	done  int
	grant uint64 // of the rack to its first owner
}

func (h *history) now() int64 { return time.Since(h.began).Nanoseconds() }

// note keeps an operation. One that may yet be done has no end.
func (h *history) note(client int, call int64, in asked, out said) {
	h.mu.Lock()
	defer h.mu.Unlock()
	end := h.now()
	if out.unknown {
		end = 1 << 60
	} else {
		h.done++
	}
	h.all = append(h.all, porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: end})
}

// command is what a client sends; nil for one that reads.
func (in asked) command() *pb.Command {
	put := func(name, source string) *pb.Script {
		return &pb.Script{Name: name, Source: []byte(source), Digest: order.Digest([]byte(source))}
	}
	envelope := fmt.Append(nil, "signed ", in.version)
	switch in.what {
	case "put":
		return &pb.Command{Body: &pb.Command_PutScript{PutScript: &pb.PutScript{Script: put(in.key, in.value)}}}
	case "remove":
		return &pb.Command{Body: &pb.Command_RemoveScript{RemoveScript: &pb.RemoveScript{Name: in.key}}}
	case "run":
		r := &pb.Run{Source: []byte("x"), Digest: order.Digest([]byte("x"))}
		return &pb.Command{Body: &pb.Command_StartRun{StartRun: &pb.StartRun{Run: r}}}
	case "order":
		s := put(in.group(), in.value)
		s.Version, s.Envelope = in.version, envelope
		return &pb.Command{Body: &pb.Command_PutScript{PutScript: &pb.PutScript{Script: s}}}
	case "end":
		return &pb.Command{Body: &pb.Command_RemoveScript{RemoveScript: &pb.RemoveScript{Name: in.group(), Version: in.version, Envelope: envelope}}}
	case "claim":
		return &pb.Command{Body: &pb.Command_OwnRack{OwnRack: &pb.OwnRack{Rack: in.key, Agent: in.value, Claim: &pb.Owner{Grant: in.grant, Local: in.version}}}}
	case "deny":
		return &pb.Command{Body: &pb.Command_Deny{Deny: &pb.Deny{Denials: []*pb.Denial{{Subject: in.key}}}}}
	case "allow":
		return &pb.Command{Body: &pb.Command_Allow{Allow: &pb.Allow{Subject: in.key}}}
	}
	return nil
}

// group is the name of the script that makes one of the groups of a key.
func (in asked) group() string { return fmt.Sprint(in.key, "-", in.which) }

// do asks a member, as a client would.
func (m *member) do(ctx context.Context, in asked) said {
	c := in.command()
	if c == nil {
		if m.node.CatchUp(ctx, true) != nil {
			return said{unknown: true}
		}
		return said{read: m.look(in.key)}
	}
	o, err := m.node.Propose(ctx, c)
	if err != nil {
		return said{unknown: true}
	}
	return said{value: o.Run.GetId(), again: o.Again, stale: fault.Is(o.Err, fault.Conflict), missing: fault.Is(o.Err, fault.NotFound)}
}

// look is what a member knows of a key, at one moment.
func (m *member) look(key string) (p place) {
	switch key[0] {
	case 'g':
		for _, s := range m.machine.Sources() {
			for i := range p {
				if s.GetName() == (asked{key: key, which: i}).group() {
					p[i] = thing{value: string(s.GetSource()), version: s.GetVersion()}
				}
			}
		}
	case 'r':
		o := m.machine.Owner(key)
		p[0] = thing{value: o.GetAgent(), version: o.GetLocal()}
	case 'd':
		for _, d := range m.machine.Denied() {
			if d.GetSubject() == key {
				p[0].value = "denied"
			}
		}
	default:
		s, _ := m.machine.Script(key)
		p[0].value = string(s.GetSource())
	}
	return p
}

// pair gives the rack two agents, and to one of them.
func (h *history) pair(t *testing.T, m *member) {
	t.Helper()
	for agent, other := range map[string]string{"one": "two", "two": "one"} {
		info := &pb.AgentInfo{Name: agent, Rack: "rack", Pair: other, SpoolEpoch: 1, NextSeq: 1}
		o, err := m.node.Propose(t.Context(), &pb.Command{Body: &pb.Command_PutAgent{PutAgent: &pb.PutAgent{Agent: info}}})
		if err != nil || o.Err != nil {
			t.Fatal(err, o.Err)
		}
	}
	h.grant = m.machine.Owner("rack").GetGrant()
	in := asked{key: "rack", what: "claim", value: "one", version: 1, grant: h.grant}
	h.note(0, h.now(), in, m.do(t.Context(), in))
}

// something is what a client asks for next.
func (h *history) something(client, i int) asked {
	in := asked{value: fmt.Sprint(client, "-", i), which: rand.IntN(2), version: uint64(h.now())<<4 | uint64(client), grant: h.grant}
	kinds := []struct {
		key  string
		what []string
	}{
		{fmt.Sprint("s", rand.IntN(3)), []string{"put", "read", "read", "remove"}},
		{"runs", []string{"run"}},
		{fmt.Sprint("g", rand.IntN(2)), []string{"order", "order", "read", "read", "end"}},
		{"rack", []string{"claim", "read"}},
		{fmt.Sprint("d", rand.IntN(2)), []string{"deny", "allow", "read"}},
	}
	kind := kinds[rand.IntN(len(kinds))]
	in.key, in.what = kind.key, kind.what[rand.IntN(len(kind.what))]
	switch in.what {
	case "order":
		in.value = fmt.Sprintf("(group %q \"n%s\")", in.group(), in.value)
	case "claim":
		in.value = []string{"one", "two"}[rand.IntN(2)]
	}
	if in.key[0] != 'g' {
		in.which = 0
	}
	return in
}

// Scripts, runs, groups, the owner of a rack and the list of the denied behave as if one
// machine had done all, one after the other, whoever was asked: while answers are lost,
// the leader is cut off or killed, and comes back. Who was not answered sends the same
// order again, and it is carried out once.
func TestLinearizable(t *testing.T) {
	t.Parallel()
	lines := newNetwork()
	g := newGroup(t)
	g.network = lines
	var join []string
	for i := range 3 {
		name := fmt.Sprintf("c%d", i+1)
		g.start(name, 3, join...)
		join = append(join, g.members[name].addr)
	}
	g.ready()

	h := &history{began: time.Now()}
	h.pair(t, g.members["c1"])
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for client := range 9 {
		clients.Go(func() { g.client(h, client, stop) })
	}
	g.suffer(h, lines)
	close(stop)
	clients.Wait()
	g.ready()
	g.same()

	result, info := porcupine.CheckOperationsVerbose(fleet, h.all, 60*time.Second)
	if result != porcupine.Ok {
		path := t.ArtifactDir() + "/history.html"
		t.Errorf("the history of %d operations is %s: see %s, kept with -artifacts", len(h.all), result, path)
		if err := porcupine.VisualizePath(fleet, info, path); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d operations, %d of them with a known end", len(h.all), h.done)
}

// client asks its member for this and that until it is stopped.
func (g *group) client(h *history, client int, stop <-chan struct{}) {
	name := g.names()[client%3]
	var unanswered *asked
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		in := h.something(client, i)
		if unanswered != nil {
			in, unanswered = *unanswered, nil
		}
		g.alive.RLock()
		m := *g.members[name]
		g.alive.RUnlock()
		if m.node == nil {
			<-time.After(10 * time.Millisecond)
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		call := h.now()
		out := m.do(ctx, in)
		cancel()
		if out.unknown {
			if in.what == "order" || in.what == "end" {
				unanswered = &in
			}
			<-time.After(50 * time.Millisecond) // each makes the history harder to check
		}
		if !out.unknown || in.what != "read" {
			h.note(client, call, in, out)
		}
	}
}

// suffer lets the group live through faults; between two of them the clients get on.
func (g *group) suffer(h *history, lines *network) {
	g.t.Helper()
	work := func(n int) {
		h.mu.Lock()
		goal := h.done + n
		h.mu.Unlock()
		g.until("the clients get on", func() bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.done >= goal
		})
	}
	for range 2 {
		lines.lose(true)
		work(200)
		lines.lose(false)

		_, leader := g.leader()
		lines.part(leader.addr)
		g.until("the others have another leader", func() bool {
			for _, m := range g.members {
				if m != leader && strings.HasPrefix(m.node.Status().State, "Leader") {
					return true
				}
			}
			return false
		})
		work(100)
		lines.part()
		work(50)

		name, leader := g.leader()
		leader.kill()
		work(100)
		g.start(name, 3)
		work(50)
	}
}

package raftnode_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// asked is one operation on one key, and said what came of it. The key "runs" is the
// counter of runs; all others are scripts.
type asked struct {
	key, what, value string // what: "put", "remove", "read", "run"
}

type said struct {
	value   string // that was read; the number of the run
	missing bool   // there was nothing to be removed
	unknown bool   // it may or may not have been done
}

// fleet is what scripts and runs should be: each script a register, the runs a counter.
var fleet = porcupine.Model{
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		by := map[string][]porcupine.Operation{}
		for _, o := range all {
			key := o.Input.(asked).key
			by[key] = append(by[key], o)
		}
		var parts [][]porcupine.Operation
		for _, part := range by {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		is, in, out := state.(string), input.(asked), output.(said)
		switch in.what {
		case "put":
			return true, in.value
		case "remove":
			return out.unknown || out.missing == (is == ""), ""
		case "run":
			n, _ := strconv.Atoi(is)
			next := strconv.Itoa(n + 1)
			return out.unknown || out.value == "R"+next, next
		default:
			return out.unknown || out.value == is, is
		}
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

// history is what clients have asked for and were told.
type history struct {
	mu    sync.Mutex
	began time.Time
	all   []porcupine.Operation
	done  int
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

// do asks a member, as a client would.
func (m *member) do(ctx context.Context, in asked) said {
	var c *pb.Command
	switch in.what {
	case "put":
		c = script(in.key)
		s := c.GetPutScript().GetScript()
		s.Source, s.Digest = []byte(in.value), order.Digest([]byte(in.value))
	case "remove":
		c = &pb.Command{Body: &pb.Command_RemoveScript{RemoveScript: &pb.RemoveScript{Name: in.key}}}
	case "run":
		c = &pb.Command{Body: &pb.Command_StartRun{StartRun: &pb.StartRun{Run: &pb.Run{Source: []byte("x"), Digest: order.Digest([]byte("x"))}}}}
	default:
		if m.node.CatchUp(ctx, true) != nil {
			return said{unknown: true}
		}
		s, _ := m.machine.Script(in.key)
		return said{value: string(s.GetSource())}
	}
	o, err := m.node.Propose(ctx, c)
	if err != nil {
		return said{unknown: true}
	}
	return said{value: o.Run.GetId(), missing: fault.Is(o.Err, fault.NotFound)}
}

// Scripts and runs behave as if one machine had done all, one after the other, whoever
// was asked: while answers are lost, the leader is cut off or killed, and comes back.
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
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		in := asked{key: fmt.Sprint("s", rand.IntN(4)), what: []string{"put", "read", "read", "remove", "run"}[rand.IntN(5)], value: fmt.Sprint(client, "-", i)}
		if in.what == "run" {
			in.key = "runs"
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

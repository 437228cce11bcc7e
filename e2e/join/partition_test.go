package join_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/agent"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/sign/signtest"
)

// apart is a rack's agent, whole, by the test's clock.
type apart struct {
	t    *testing.T
	cfg  agent.Config
	stop func()
}

func (s *site) agent(rack, coordinator string, log *single) *apart {
	s.t.Helper()
	dir := s.joined(s.bundleFor(rack, log, "t-"+rack, coordinator))
	if _, err := signtest.New(dir); err != nil {
		s.t.Fatal(err)
	}
	a := &apart{t: s.t, cfg: agent.Config{
		Name: fleet.AgentName("agent-" + rack), Rack: fleet.RackName(rack), Site: "osl1", State: dir, Coordinators: []string{coordinator},
		Heartbeat: time.Second, NoMDNS: true, Log: slog.New(slog.DiscardHandler), Now: log.clock, Written: log.clock(),
	}}
	if err := os.WriteFile(filepath.Join(dir, agent.ConfigFile), nil, 0o600); err != nil {
		s.t.Fatal(err)
	}
	a.start()
	return a
}

func (a *apart) start() {
	a.t.Helper()
	process, err := agent.New(a.cfg)
	if err != nil {
		a.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- process.Run(ctx) }()
	running := true
	a.stop = func() {
		if !running {
			return
		}
		running = false
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			a.t.Errorf("agent %s ended with %v", a.cfg.Name, err)
		}
	}
	a.t.Cleanup(a.stop)
}

// deny is what a person types at the agent's machine.
func (a *apart) deny(subject string) {
	a.t.Helper()
	cmd := agent.Command()
	cmd.SetArgs([]string{"deny", subject, "--state", a.cfg.State, "--reason", "stolen"})
	cmd.SetOut(io.Discard)
	if err := cmd.ExecuteContext(a.t.Context()); err != nil {
		a.t.Fatal(err)
	}
}

// denies are the subjects that an agent denies, as a copy of its disk has it at this
// moment: the mesh's list, and its own. It is nil if the copy was made amid a write.
func (a *apart) denies() []string {
	a.t.Helper()
	image, err := os.ReadFile(filepath.Join(a.cfg.State, "spool.db"))
	if err != nil {
		a.t.Fatal(err)
	}
	copied := filepath.Join(a.t.TempDir(), "spool.db")
	if err = os.WriteFile(copied, image, 0o600); err != nil {
		a.t.Fatal(err)
	}
	disk, err := spool.Open(copied, spool.Options{})
	if err != nil {
		return nil
	}
	defer func() { _ = disk.Close() }()
	var all []string
	err = disk.View(func(tx *spool.Tx) error {
		for _, key := range []string{"denied", "denied-local"} {
			var list pb.Desired
			if no := proto.Unmarshal(tx.Get(spool.Notes, key), &list); no != nil {
				return no
			}
			all = append(all, subjects(list.GetDenied())...)
		}
		return nil
	})
	if err != nil {
		return nil
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func subjects(denials []*pb.Denial) []string {
	var all []string
	for _, d := range denials {
		all = append(all, d.GetSubject())
	}
	return all
}

// Two racks lose their coordinators for seven days. People deny at each of the three
// places what they know to be stolen; certificates end; an agent is restarted. Healed
// everybody denies what anybody has denied, and what a person allows afterwards does
// not come back with an agent's old list.
func TestThreat38SevenDaysApart(t *testing.T) {
	s, log := newSite(t), newSingle()
	s.now = log.clock
	addr, cut := s.open("127.0.0.1:0", "c1", log, log.machine, &log.denied, log.clock)
	one, two := s.agent("r1", addr, log), s.agent("r2", addr, log)
	linked := func() bool { return log.hub.Load().Connected("r1") && log.hub.Load().Connected("r2") }
	await(t, "both are linked", linked)
	commit := func(c *pb.Command) {
		t.Helper()
		c.By = "ada"
		if o, err := log.Propose(t.Context(), c); err != nil || o.Err != nil {
			t.Fatal(err, o.Err)
		}
	}
	key := func(digit string) string { return "spki/" + strings.Repeat(digit, 64) }
	denied := func(subject string) *pb.Command {
		return &pb.Command{Body: &pb.Command_Deny{Deny: &pb.Deny{Denials: []*pb.Denial{{Subject: subject, Reason: "stolen", By: "ada"}}}}}
	}
	commit(denied(key("0"))) // what everybody knew before

	cut()
	for day, then := range map[int]func(){
		1: func() { one.deny(key("1")) },
		2: func() { one.stop(); one.deny("agent/agent-r1-old"); one.start() }, // put down while nothing runs
		3: func() { two.deny(key("2")) },
		4: func() { commit(denied("rack/r9")) },
		5: func() { two.deny(key("1")) }, // known at the other rack alone
		7: func() { two.stop(); two.start() },
	} {
		_ = day // in any order: a union has none
		log.later(28 * time.Hour)
		then()
	}
	if got := subjects(log.machine.Denied()); !slices.Equal(got, []string{"rack/r9", key("0")}) {
		t.Errorf("cut off the coordinators deny %v", got)
	}
	ended, err := trust.Load(one.cfg.State)
	if err != nil || !log.clock().After(ended.Certificate.Leaf.NotAfter) {
		t.Fatalf("its certificate has not ended: %v", err)
	}

	_, cut = s.open(addr, "c1", log, log.machine, &log.denied, log.clock)
	t.Cleanup(func() { cut() })
	union := []string{"agent/agent-r1-old", "rack/r9", key("0"), key("1"), key("2")}
	await(t, "the coordinators deny what anybody has denied", func() bool { return slices.Equal(subjects(log.machine.Denied()), union) })
	await(t, "both are linked again", linked)
	for _, a := range []*apart{one, two} {
		await(t, "the agent denies what anybody has denied", func() bool { return slices.Equal(a.denies(), union) })
	}

	commit(&pb.Command{Body: &pb.Command_Allow{Allow: &pb.Allow{Subject: key("1")}}})
	cut()
	log.later(time.Hour)
	_, cut = s.open(addr, "c1", log, log.machine, &log.denied, log.clock)
	await(t, "both are linked once more", linked)
	for _, a := range []*apart{one, two} {
		await(t, "the agent denies it no longer", func() bool {
			got := a.denies()
			return !slices.Contains(got, key("1")) && len(got) == len(union)-1
		})
	}
	if got := subjects(log.machine.Denied()); slices.Contains(got, key("1")) {
		t.Errorf("what was allowed came back: %v", got)
	}
}

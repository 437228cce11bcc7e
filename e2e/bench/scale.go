package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

// Scale is what a fleet needed for W1, each time in front of the same BMCs, which
// are a process of their own. The coordinator and all agents are one process; if
// Alone is set, the one agent is a process of its own.
type Scale struct {
	Nodes, Agents int
	Alone         bool
	Agent         string  // the program that the agent is, if it is alone
	Start         float64 // s until every node was ready
	StartCPU      float64 // s
	Memory        float64 // bytes when ready: of the agent if it is alone, else of coordinator and agents
	Peak          float64 // bytes
	Runs          []ScaleRun
	Sick          *ScaleRun // with one BMC in ten hanging, slow or lying
	Floor         []Row     // of others that do the same work on the same BMCs
	Sessions      int       // left on the BMCs when all had ended
}

// ScaleOptions say what is measured of a fleet.
type ScaleOptions struct {
	Options
	Alone bool // the agent is a process of its own; up to 40 BMCs
	Sick  bool
	Floor bool
}

// RunScale starts a coordinator and an agent for every 40 BMCs and runs W1.
func RunScale(ctx context.Context, o ScaleOptions) (Scale, error) {
	s := Scale{Nodes: o.Nodes, Agents: (o.Nodes + perAgent - 1) / perAgent, Alone: o.Alone}
	rack, err := startRack(ctx, o.Options, []string{"--at-once", "1"})
	if err != nil {
		return s, err
	}
	dir, err := os.MkdirTemp("", "chiba-scale-")
	if err != nil {
		return s, errors.Join(fault.Wrap(fault.Unavailable, "make a directory for the fleet", err), rack.stop())
	}
	if err = s.run(ctx, o, rack, dir); err == nil && o.Floor {
		err = s.floor(ctx, o, rack)
	}
	return s, errors.Join(err, rack.stop(), os.RemoveAll(dir))
}

// agentCommand is chiba-agent beside chiba, as `make build` puts it, else `chiba agent`.
func agentCommand(chiba string) []string {
	alone := filepath.Join(filepath.Dir(chiba), "chiba-agent")
	if _, err := os.Stat(alone); err != nil {
		return []string{chiba, "agent"}
	}
	return []string{alone}
}

func (s *Scale) run(ctx context.Context, o ScaleOptions, rack *rack, dir string) error {
	var alone []string
	if o.Alone {
		alone = agentCommand(o.Binary)
		s.Agent = strings.Join(append([]string{filepath.Base(alone[0])}, alone[1:]...), " ")
	}
	f, err := newCrowd(ctx, rack, dir, alone)
	if err != nil {
		return err
	}
	fmt.Fprintf(o.Say, "%d simulated BMCs, agents: %d, a coordinator\n", s.Nodes, s.Agents)
	runCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- f.run(runCtx) }()
	err = s.measure(ctx, o, f, ended)
	cancel()
	stopped := <-ended
	if err == nil && !fault.Is(stopped, fault.Canceled) && !errors.Is(stopped, context.Canceled) {
		err = stopped
	}
	if err == nil && s.Sick == nil { // a BMC that hangs keeps its session
		s.Sessions, err = rack.sessions(ctx)
	}
	return err
}

func (s *Scale) measure(ctx context.Context, o ScaleOptions, f *crowd, ended chan error) error {
	began, used := time.Now(), cpu()
	if err := f.ready(ctx, s.Nodes, ended); err != nil {
		return err
	}
	pid := os.Getpid()
	if o.Alone {
		pid = <-f.own
	}
	s.Start, s.StartCPU = time.Since(began).Seconds(), cpu()-used
	runtime.GC() // what is kept counts, not what is garbage
	s.Memory = resident(pid, residentNow)
	fmt.Fprintf(o.Say, "  all are ready after %.1f s\n", s.Start)
	healthy := map[fleet.NodeName]bool{}
	nodes, err := f.rack.client.Nodes(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		healthy[n.Name] = true
	}
	for range max(1, o.Repeat) {
		r, failed := f.w1(ctx, healthy)
		if failed != nil {
			return failed
		}
		fmt.Fprintf(o.Say, "  W1: %.2f s, %d lost, %d doubled %s\n", r.Seconds, r.Lost, r.Doubled, r.Why)
		s.Runs = append(s.Runs, r)
	}
	s.Peak = resident(pid, residentPeak)
	if !o.Sick {
		return nil
	}
	faults := []bmcsim.Fault{{Kind: bmcsim.Hang}, {Kind: bmcsim.Slow, Delay: 5 * time.Second}, {Kind: bmcsim.Garbage}}
	for i, n := range nodes {
		if i%10 != 3 {
			continue
		}
		delete(healthy, n.Name)
		if err = f.rack.client.Fault(ctx, n.Name, faults[i/10%len(faults)]); err != nil {
			return err
		}
	}
	sick, err := f.w1(ctx, healthy)
	if err != nil {
		return err
	}
	fmt.Fprintf(o.Say, "  with %d sick BMCs: %.2f s\n", s.Nodes-len(healthy), sick.Seconds)
	s.Sick, s.Peak = &sick, max(s.Peak, resident(pid, residentPeak))
	return nil
}

// floor has others do W1 on the same BMCs, which are well again.
func (s *Scale) floor(ctx context.Context, o ScaleOptions, rack *rack) error {
	nodes, err := rack.client.Nodes(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if n.Fault == string(bmcsim.NoFault) {
			continue
		}
		if err = rack.client.Fault(ctx, n.Name, bmcsim.Fault{Kind: bmcsim.NoFault}); err != nil {
			return err
		}
	}
	for _, t := range tools() {
		if !t.atScale {
			continue
		}
		row, err := o.once(ctx, rack, t, workW1)
		if err != nil && ctx.Err() == nil { // what was measured of ours is true all the same
			row = Row{Tool: t.name, Start: t.start, Work: workW1, Nodes: s.Nodes, Failed: s.Nodes, Why: err.Error()}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fmt.Fprintf(o.Say, "  %s (%s): %.2f s %s\n", row.Tool, row.Start, row.Seconds, row.Why)
		s.Floor = append(s.Floor, row)
	}
	return nil
}

// floorOf is a row of the floor by its tool and start.
func (s Scale) floorOf(tool string, start start) (Row, bool) {
	for _, r := range s.Floor {
		if r.Tool == tool && r.Start == start && r.Failed == 0 {
			return r, true
		}
	}
	return Row{}, false
}

func seconds(r ScaleRun) float64 { return r.Seconds }

// wrong is how many results were lost or came twice.
func (s Scale) wrong() (n int) {
	for _, r := range s.all() {
		n += r.Lost + r.Doubled
	}
	return n
}

func (s Scale) all() []ScaleRun {
	if s.Sick == nil {
		return s.Runs
	}
	return append(slices.Clip(s.Runs), *s.Sick)
}

// write writes the scale for a person.
func (s Scale) write(out io.Writer) {
	where := "in one process"
	if s.Alone {
		where = "the agent in a process of its own (" + s.Agent + ")"
	}
	per := func(n float64) string { return short(n / float64(max(s.Nodes, 1))) }
	fmt.Fprintf(out, "%d BMCs, agents: %d, one coordinator with Raft on disk, %s; the BMCs in another\n", s.Nodes, s.Agents, where)
	fmt.Fprintf(out, "  start: %s s until all are ready\n", short(s.Start))
	fmt.Fprintf(out, "  memory: %s MB when ready, %s kB per BMC; peak %s MB\n", short(s.Memory/1e6), per(s.Memory/1e3), short(s.Peak/1e6))
	s.printRuns(out, "W1", s.Runs)
	if s.Sick != nil {
		s.printRuns(out, "W1, one BMC in ten sick", []ScaleRun{*s.Sick})
	}
	for _, r := range s.Floor {
		if r.Failed > 0 {
			fmt.Fprintf(out, "  %s (%s): %d failed: %.80s\n", r.Tool, r.Start, r.Failed, r.Why)
			continue
		}
		fmt.Fprintf(out, "  %s (%s): %s s, %s requests per BMC; %s ms CPU per BMC, the BMCs' own %s ms\n",
			r.Tool, r.Start, short(r.Seconds), short(r.Requests), per(r.CPU*1e3), per(r.SimCPU*1e3))
	}
}

func (s Scale) printRuns(out io.Writer, name string, runs []ScaleRun) {
	if len(runs) == 0 {
		return
	}
	perBMC := func(of func(ScaleRun) float64) string {
		return short(spreadOf(runs, of).Median / float64(max(s.Nodes, 1)) * 1e3)
	}
	fmt.Fprintf(out, "  %s, %d times: %s s until the run ended\n", name, len(runs), spreadOf(runs, seconds))
	fmt.Fprintf(out, "    %s ms CPU per BMC, the BMCs' own %s ms; %s requests per BMC\n",
		perBMC(func(r ScaleRun) float64 { return r.FleetCPU }), perBMC(func(r ScaleRun) float64 { return r.SimCPU }),
		spreadOf(runs, func(r ScaleRun) float64 { return r.Requests }))
	total := ScaleRun{}
	for _, r := range runs {
		total.Confirmed, total.Attempted = total.Confirmed+r.Confirmed, total.Attempted+r.Attempted
		total.Lost, total.Doubled, total.Healthy = total.Lost+r.Lost, total.Doubled+r.Doubled, total.Healthy+r.Healthy
		if total.Why == "" {
			total.Why = r.Why
		}
	}
	fmt.Fprintf(out, "    p50 %s s, p99 %s s\n", spreadOf(runs, func(r ScaleRun) float64 { return r.P50 }), spreadOf(runs, func(r ScaleRun) float64 { return r.P99 }))
	fmt.Fprintf(out, "    %d results wanted: %d confirmed, %d attempted (used up before they could be read back), %d lost, %d doubled\n",
		steps*total.Healthy, total.Confirmed, total.Attempted, total.Lost, total.Doubled)
	if total.Why != "" {
		fmt.Fprintf(out, "    the first that failed: %.200s\n", total.Why)
	}
}

// goals holds the scale against the goals.
func (s Scale) goals() []Goal {
	times := fmt.Sprintf(" (%d × %d)", len(s.Runs), s.Nodes)
	goals := []Goal{{
		Number: 12, What: "results lost or doubled" + times, Wanted: "0", Measured: strconv.Itoa(s.wrong()),
		Known: len(s.Runs) > 0, Met: s.wrong() == 0,
	}}
	if s.Alone {
		limit := 30 + 0.12*float64(s.Nodes)
		requests := spreadOf(s.Runs, func(r ScaleRun) float64 { return r.Requests })
		return append(goals,
			Goal{Number: 1, What: "W1 by an agent: requests per BMC" + times, Wanted: "≤ 3", Measured: requests.String(), Known: len(s.Runs) > 0, Met: requests.Max <= 3},
			Goal{Number: 1, What: "W1 by an agent: sessions left", Wanted: "0", Measured: strconv.Itoa(s.Sessions), Known: s.Sick == nil, Met: s.Sessions == 0},
			Goal{Number: 12, What: "memory of the agent, MB", Wanted: "≤ " + short(limit), Measured: short(s.Peak / 1e6), Known: s.Peak > 0, Met: s.Peak/1e6 <= limit})
	}
	took := spreadOf(s.Runs, seconds)
	goals = append(goals, Goal{
		Number: 4, What: "W1 with Raft, 2,000 BMCs: seconds", Wanted: "≤ 3.0", Measured: took.String(),
		Known: s.Nodes == 2000 && len(s.Runs) > 0, Met: took.Median <= 3,
	})
	if r, found := s.floorOf("gofish default", cold); found && took.Median > 0 {
		n := r.Seconds / took.Median
		goals = append(goals, Goal{Number: 4, What: "W1: time against gofish default, cold", Wanted: "≥ 2.8× less", Measured: short(n) + "×", Known: true, Met: n >= 2.8})
	}
	if s.Sick != nil {
		well := spreadOf(s.Runs, func(r ScaleRun) float64 { return r.P99 })
		shift := s.Sick.P99/max(well.Median, 1e-9) - 1
		goals = append(goals, Goal{
			Number: 4, What: "p99 of the others when one in ten is sick", Wanted: "< 10 % more",
			Measured: fmt.Sprintf("%.0f %%", shift*100), Known: true, Met: shift < 0.1,
		})
	}
	return goals
}

package bench

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/cli"
)

var update = flag.Bool("update", false, "write the golden files")

// measured is a rack's table as it could be: one tool misses its goals, one is not
// there, one failed.
func measured() []Row {
	row := func(tool string, from start, work string, seconds, cpu, requests, handshakes float64) Row {
		return Row{
			Tool: tool, Start: from, Work: work, Nodes: 40, Seconds: seconds, Times: spread{seconds - 0.01, seconds, seconds + 0.5},
			CPU: cpu, RSS: 21e6, Requests: requests, Handshakes: handshakes,
		}
	}
	lost := row("sushy", cold, workW1, 1.8, 2, 7, 1)
	lost.Sessions = 40
	failed := row(ours, kept, workW3, 1, 0.004, 1, 0)
	failed.Failed, failed.Why = 1, "r01-u07: the BMC does not answer"
	return []Row{
		row(ours, kept, workW1, 0.32, 0.02, 3, 0),
		row(ours, cold, workW1, 0.9, 0.08, 8, 1),
		row("ideal", kept, workW1, 0.21, 0.01, 2, 0),
		row("ideal", cold, workW1, 0.33, 0.06, 3, 1),
		row("gofish default", cold, workW1, 0.8, 0.3, 7, 7),
		lost,
		{Tool: "redfishtool", Start: cold, Work: workW1, Skipped: "not installed: apt install redfishtool"},
		failed,
	}
}

func TestJudge(t *testing.T) {
	got := map[string]string{}
	for _, g := range judge(measured(), Options{Nodes: 40, Latency: 100 * time.Millisecond}) {
		got[g.What] = g.Measured + " " + g.Verdict()
	}
	for what, want := range map[string]string{
		"W1, kept: requests per BMC":                 "3 met",
		"W1, cold: handshakes per BMC":               "1 met",
		"W1, kept: seconds":                          "0.32 met",
		"W1: time against ideal, both kept":          "1.52× missed",
		"W1: CPU against ideal, both kept":           "2× missed",
		"W1: CPU against ideal, both cold":           "1.33× met",
		"W1: time against gofish default, both cold": "0.889× missed",
		"W1: CPU against gofish default, both cold":  "3.75× missed",
		"W1: time against sushy, both cold":          "2× missed",
		"W1: CPU against sushy, both cold":           "25.0× missed",
		"W3, kept: requests per BMC":                 " not measured", // a BMC failed: it counts for nothing
		"W3: CPU against gofish tuned, both kept":    " not measured",
		"W3 stock, kept: seconds, 4 at once":         " not measured",
	} {
		if got[what] != want {
			t.Errorf("%s: %q, want %q", what, got[what], want)
		}
	}
}

// A goal is missed by as little as it is met by.
func TestJudgeAtTheLimit(t *testing.T) {
	rows := measured()[:3]
	for seconds, want := range map[float64]string{0.38: "met", 0.381: "missed"} {
		rows[0].Seconds = seconds
		goal := index(rows).most(2, "", mine(kept, workW1), 0.38, Row.seconds)
		if goal.Verdict() != want {
			t.Errorf("%v s of 0.38: %s", seconds, goal.Verdict())
		}
	}
	for cpu, want := range map[float64]string{0.015: "met", 0.0151: "missed"} {
		rows[0].CPU = cpu
		goal := index(rows).compare(comparison{3, "", workW1, "ideal", kept, Row.perThousand, 1.5, 0})
		if goal.Verdict() != want {
			t.Errorf("%v s of 1.5 × 0.01: %s", cpu, goal.Verdict())
		}
	}
}

// A fleet that lost a result in one of its runs has lost it.
func TestGoalsOfAFleet(t *testing.T) {
	s := fleetOf2000()
	verdict := func() map[string]string {
		got := map[string]string{}
		for _, g := range s.goals() {
			got[g.What] = g.Measured + " " + g.Verdict()
		}
		return got
	}
	want := map[string]string{
		"results lost or doubled (3 × 2000)":        "0 met",
		"W1 with Raft, 2,000 BMCs: seconds":         "1.9 / 2.2 / 3.4 met",
		"W1: time against gofish default, cold":     "5× met",
		"p99 of the others when one in ten is sick": "5 % met",
	}
	if diff := cmp.Diff(want, verdict()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	s.Runs[1].Doubled, s.Sick.Lost, s.Sick.P99 = 1, 1, 2.4
	got := verdict()
	if got["results lost or doubled (3 × 2000)"] != "2 missed" || got["p99 of the others when one in ten is sick"] != "20 % missed" {
		t.Errorf("got %v", got)
	}
}

func TestGoalsOfAnAgentAlone(t *testing.T) {
	s := Scale{Nodes: 40, Agents: 1, Alone: true, Peak: 34e6, Runs: []ScaleRun{{Seconds: 0.4, Requests: 3}, {Seconds: 0.5, Requests: 3.05}}}
	got := map[string]string{}
	for _, g := range s.goals() {
		got[g.What] = g.Measured + " " + g.Verdict()
	}
	want := map[string]string{
		"results lost or doubled (2 × 40)":          "0 met",
		"W1 by an agent: requests per BMC (2 × 40)": "3 / 3.05 / 3.05 missed",
		"W1 by an agent: sessions left":             "0 met",
		"memory of the agent, MB":                   "34.0 met",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func fleetOf2000() Scale {
	run := func(seconds float64) ScaleRun {
		return ScaleRun{Seconds: seconds, P50: 1, P99: 2, FleetCPU: 2, SimCPU: 1.2, Requests: 3, Healthy: 2000, Confirmed: 2000, Attempted: 2000}
	}
	sick := run(40)
	sick.Healthy, sick.Confirmed, sick.Attempted, sick.P99 = 1800, 1800, 1799, 2.1
	sick.Why = "r01-u01: (boot pxe (once)): failed no answer"
	return Scale{
		Nodes: 2000, Agents: 50, Start: 12.3, StartCPU: 8, Memory: 370e6, Peak: 465e6,
		Runs: []ScaleRun{run(2.2), run(1.9), run(3.4)}, Sick: &sick,
		Floor: []Row{
			{Tool: "ideal", Start: kept, Work: workW1, Nodes: 2000, Seconds: 1.1, CPU: 1, SimCPU: 0.9, Requests: 2},
			{Tool: "gofish default", Start: cold, Work: workW1, Nodes: 2000, Seconds: 11, CPU: 13, SimCPU: 9, Requests: 7},
			{Tool: "ideal", Start: cold, Work: workW1, Nodes: 2000, Failed: 3, Why: "connection reset"},
		},
	}
}

// What people read, written down.
func TestReportsAreReadable(t *testing.T) {
	var out bytes.Buffer
	table(measured()).Write(&out, cli.Layout{})
	out.WriteByte('\n')
	fleetOf2000().write(&out)
	out.WriteByte('\n')
	verdicts(fleetOf2000().goals()).Write(&out, cli.Layout{})
	path := filepath.Join("testdata", "report.txt")
	if *update {
		if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Every comparison is between tools that start as ours can.
func TestComparisonsAreOfEquals(t *testing.T) {
	there := map[[2]string]bool{}
	for _, tl := range tools() {
		there[[2]string{tl.name, string(tl.start)}] = true
	}
	for _, c := range comparisons() {
		if !there[[2]string{ours, string(c.start)}] || !there[[2]string{c.other, string(c.start)}] {
			t.Errorf("%s against %s: nobody is %s", c.what, c.other, c.start)
		}
		if (c.ratio > 0) == (c.factor > 0) {
			t.Errorf("%s against %s: %v and %v", c.what, c.other, c.ratio, c.factor)
		}
	}
}

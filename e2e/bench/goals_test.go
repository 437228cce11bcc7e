package bench

import (
	"testing"
	"time"
)

func TestJudge(t *testing.T) {
	rows := []Row{
		{Tool: ours, Work: workW1, Seconds: 0.3, CPU: 0.04, Requests: 3, Handshakes: 1, Nodes: 40},
		{Tool: "ideal", Work: workW1, Seconds: 0.25, CPU: 0.02, Requests: 2, Nodes: 40},
		{Tool: "gofish default", Work: workW1, Seconds: 0.5, CPU: 0.4, Nodes: 40},
		{Tool: "sushy", Work: workW1, Skipped: "not installed"},
		{Tool: ours, Work: workW3, Seconds: 1, CPU: 0.004, Requests: 1, Failed: 1, Nodes: 40},
	}
	got := map[string]string{}
	for _, g := range judge(rows, Options{Nodes: 40, Latency: 100 * time.Millisecond}) {
		got[g.What] = g.Measured + " " + g.Verdict()
	}
	for what, want := range map[string]string{
		"W1: requests per BMC":            "3 met",
		"W1: time against ideal":          "1.2× met",
		"W1: CPU against ideal":           "2× missed",
		"W1: time against gofish default": "1.67× missed",
		"W1: CPU against gofish default":  "10.0× met",
		"W1: time against sushy":          " not measured",
		"W3: requests per BMC":            " not measured", // a BMC failed: it counts for nothing
	} {
		if got[what] != want {
			t.Errorf("%s: %q, want %q", what, got[what], want)
		}
	}
}

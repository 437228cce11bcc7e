package e2e_test

import "testing"

// Every tool that is compared does its work, on a small rack: what is measured
// is no failure.
func TestBenchMeasures(t *testing.T) {
	w := newWorld(t)
	var got struct {
		Rows []struct {
			Tool, Work, Skipped, Why           string
			Seconds, CPU, Requests, Handshakes float64
			Sessions, Failed                   int
		}
		Goals []struct{ Number int }
	}
	w.decode(&got, "bench", "--nodes", "2", "--latency", "1ms", "--repeat", "1")
	ran := map[string]int{}
	for _, r := range got.Rows {
		if r.Skipped != "" {
			continue
		}
		ran[r.Tool]++
		if r.Failed > 0 || r.Seconds <= 0 || r.Requests < 1 {
			t.Errorf("%s, %s: %+v", r.Tool, r.Work, r)
		}
		if r.Tool == "chiba" && (r.Sessions > 0 || r.Handshakes > 1) {
			t.Errorf("%s: %+v", r.Work, r)
		}
	}
	for _, tool := range []string{"chiba", "chiba, first time", "ideal", "gofish tuned", "gofish default"} {
		if ran[tool] != 4 {
			t.Errorf("%s did %d kinds of work of 4", tool, ran[tool])
		}
	}
	if len(got.Goals) < 10 {
		t.Errorf("goals: %+v", got.Goals)
	}
}

// A fleet of one agent does W1 through the coordinator's log: each result comes
// once.
func TestBenchScaleLosesNothing(t *testing.T) {
	w := newWorld(t)
	var got struct {
		Agents int
		Well   struct{ Healthy, Confirmed, Lost, Doubled int }
	}
	w.decode(&got, "bench", "--scale", "--nodes", "3", "--latency", "1ms")
	if got.Agents != 1 || got.Well.Healthy != 3 || got.Well.Confirmed != 6 || got.Well.Lost+got.Well.Doubled != 0 {
		t.Errorf("got %+v", got)
	}
}

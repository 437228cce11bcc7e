package e2e_test

import (
	"os"
	"testing"
)

// Every tool that is compared and built in does its work, on a small rack: what is
// measured is no failure. The others are left out, if they are installed: starting an
// interpreter again and again is what takes long.
func TestBenchMeasures(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.env = append(os.Environ(), "PATH="+t.TempDir())
	var got struct {
		Rows []struct {
			Tool, Start, Work, Skipped, Why    string
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
		ran[r.Tool+", "+r.Start]++
		if r.Failed > 0 || r.Seconds <= 0 || r.Requests < 1 {
			t.Errorf("%s, %s: %+v", r.Tool, r.Work, r)
		}
		if r.Tool == "chiba" && (r.Sessions > 0 || r.Handshakes > 1) {
			t.Errorf("%s: %+v", r.Work, r)
		}
	}
	for _, tool := range []string{"chiba, kept", "chiba, cold", "ideal, kept", "ideal, session", "ideal, cold", "gofish tuned, kept", "gofish default, cold"} {
		if ran[tool] != 4 {
			t.Errorf("%s did %d kinds of work of 4", tool, ran[tool])
		}
	}
	if len(got.Goals) < 10 {
		t.Errorf("goals: %+v", got.Goals)
	}
}

// A fleet of one agent, which is a process of its own, does W1 through the
// coordinator's log: each result comes once, each time, and no session is left.
func TestBenchScaleLosesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var got struct {
		Fleets []struct {
			Agents, Sessions int
			Alone            bool
			Memory           float64
			Runs             []struct {
				Healthy, Confirmed, Attempted, Lost, Doubled int
				Requests                                     float64
				Why                                          string
			}
		}
	}
	w.decode(&got, "bench", "--scale", "--nodes", "3", "--repeat", "2", "--latency", "30ms")
	if len(got.Fleets) != 1 || len(got.Fleets[0].Runs) != 2 {
		t.Fatalf("got %+v", got)
	}
	f := got.Fleets[0]
	if f.Agents != 1 || !f.Alone || f.Memory <= 0 || f.Sessions != 0 {
		t.Errorf("got %+v", f)
	}
	for _, r := range f.Runs {
		if r.Healthy != 3 || r.Confirmed+r.Attempted != 6 || r.Confirmed < 3 || r.Lost+r.Doubled != 0 || r.Requests != 3 {
			t.Errorf("got %+v", r)
		}
	}
}

// A coordinator with some agents: they come, get a script, and come back after it was
// killed.
func TestBenchMesh(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var got struct {
		Agents                                    int
		Connect, Reconnect, Push, Memory, IdleCPU float64
	}
	w.decode(&got, "bench", "mesh", "--agents", "20", "--idle", "100ms")
	if got.Agents != 20 || got.Connect <= 0 || got.Reconnect <= 0 || got.Push <= 0 || got.Memory < 1e6 {
		t.Errorf("it has measured %+v", got)
	}
}

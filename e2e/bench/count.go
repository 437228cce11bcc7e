package bench

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// steps are the results that W1 has of each node.
const steps = 2

// ScaleRun is W1 once, from the call to the last result that the coordinator
// committed. CPU is in s.
type ScaleRun struct {
	Seconds  float64
	P50, P99 float64 // s until a healthy node's last result, from the call
	FleetCPU float64 // of the coordinator and all agents
	SimCPU   float64 // of the BMCs
	Requests float64 // per BMC

	Healthy   int
	Confirmed int // results of healthy nodes that were read back
	Attempted int // that were accepted and could not be read back any more
	Lost      int // results that did not come
	Doubled   int // results that came once more
	Why       string
}

// sound is that each healthy node has each result once, and none failed.
func (r ScaleRun) sound() bool {
	return r.Lost == 0 && r.Doubled == 0 && r.Confirmed+r.Attempted == steps*r.Healthy
}

// count judges the results of the healthy nodes: each node has each step once.
func (r *ScaleRun) count(results []fleet.Result, healthy map[fleet.NodeName]bool, began time.Time) {
	type key struct {
		node fleet.NodeName
		step string
	}
	seen := map[key]int{}
	different := map[fleet.NodeName]int{}
	last := map[fleet.NodeName]float64{}
	for _, res := range results {
		if !healthy[res.Node] {
			continue
		}
		k := key{res.Node, res.Step}
		if seen[k]++; seen[k] > 1 {
			r.Doubled++
			continue
		}
		different[res.Node]++
		last[res.Node] = max(last[res.Node], res.Started.Add(res.Took).Sub(began).Seconds())
		r.note(res)
	}
	var took []float64
	for name := range healthy {
		r.Lost += max(0, steps-different[name])
		took = append(took, last[name])
	}
	slices.SortFunc(took, cmp.Compare)
	if len(took) > 0 {
		r.P50, r.P99 = took[len(took)/2], took[len(took)*99/100]
	}
}

func (r *ScaleRun) note(res fleet.Result) {
	switch {
	case res.Status == fleet.Confirmed:
		r.Confirmed++
	case res.Status == fleet.Attempted:
		r.Attempted++
	case r.Why == "":
		r.Why = fmt.Sprintf("%s: %s: %s %s", res.Node, res.Step, res.Status, res.Error)
	}
}

// spread is the least, the middle and the most of what was measured several times.
type spread struct{ Min, Median, Max float64 }

func spreadOf[T any](all []T, of func(T) float64) spread {
	if len(all) == 0 {
		return spread{}
	}
	values := make([]float64, len(all))
	for i, v := range all {
		values[i] = of(v)
	}
	slices.Sort(values)
	return spread{values[0], values[len(values)/2], values[len(values)-1]}
}

func (s spread) String() string {
	if s.Min == s.Max {
		return short(s.Median)
	}
	return short(s.Min) + " / " + short(s.Median) + " / " + short(s.Max)
}

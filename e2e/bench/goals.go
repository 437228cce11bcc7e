package bench

import (
	"fmt"

	"github.com/chiba-mesh/chiba/pkg/cli"
)

// Goal is one promise and what became of it.
type Goal struct {
	Number   int
	What     string
	Wanted   string
	Measured string
	Known    bool // it was measured
	Met      bool
}

// Verdict is the goal in one word.
func (g Goal) Verdict() string {
	switch {
	case !g.Known:
		return "not measured"
	case g.Met:
		return "met"
	}
	return "missed"
}

// results finds rows by tool and work.
type results map[[2]string]Row

func (r results) of(tool, work string) (Row, bool) {
	row, found := r[[2]string{tool, work}]
	return row, found && row.Skipped == "" && row.Failed == 0 && row.Seconds > 0
}

func index(rows []Row) results {
	all := results{}
	for _, r := range rows {
		all[[2]string{r.Tool, r.Work}] = r
	}
	return all
}

// judge holds the rows against the goals of performance. Ours is an agent that
// has met its BMCs before.
func judge(rows []Row, o Options) []Goal {
	all := index(rows)
	s := o.Latency.Seconds()
	goals := []Goal{
		all.most(1, "W1: requests per BMC", workW1, 3, Row.requests),
		all.most(1, "W1: handshakes per BMC", workW1, 1, Row.handshakes),
		all.most(1, "W3: requests per BMC", workW3, 1, Row.requests),
		all.most(1, "W3 stock: requests per BMC", workStock, sensorCount+1, Row.requests),
		all.most(1, "sessions left open", workW1, 0, func(r Row) float64 { return float64(r.Sessions) }),
		all.ratio(2, "W1: time against ideal", workW1, "ideal", 1.5, Row.seconds),
		all.factor(2, "W1: time against gofish default", workW1, "gofish default", 2, Row.seconds),
		all.factor(2, "W1: time against sushy", workW1, "sushy", 4.5, Row.seconds),
		all.ratio(3, "W1: CPU against ideal", workW1, "ideal", 1.5, Row.CPUPerThousand),
		all.factor(3, "W1: CPU against gofish default", workW1, "gofish default", 4, Row.CPUPerThousand),
		all.factor(3, "W1: CPU against sushy", workW1, "sushy", 40, Row.CPUPerThousand),
		{Number: 4, What: "2,000 BMCs on 50 agents: W1 with Raft", Wanted: "≤ 3.0 s", Measured: "chiba bench --scale"},
		all.most(5, "W3: CPU per BMC, µs", workW3, 250, func(r Row) float64 { return r.CPU / float64(max(r.Nodes, 1)) * 1e6 }),
		all.factor(5, "W3: CPU against gofish tuned", workW3, "gofish tuned", 15, Row.CPUPerThousand),
		all.most(6, "W3 stock: seconds, 1 at once", workStock, 1.15*(sensorCount+1)*s, Row.seconds),
		all.most(6, "W3 stock: seconds, 4 at once", workStock4, 1.4*(sensorCount+1)*s/4, Row.seconds),
		all.most(12, "memory of the lanes, MB", workW1, 30+0.12*float64(o.Nodes), func(r Row) float64 { return r.RSS / 1e6 }),
	}
	return goals
}

func (r Row) requests() float64   { return r.Requests }
func (r Row) handshakes() float64 { return r.Handshakes }
func (r Row) seconds() float64    { return r.Seconds }

// ours is the tool that the goals are about.
const ours = "chiba"

// most is the goal that a value of ours is at most limit.
func (r results) most(number int, what, work string, limit float64, of func(Row) float64) Goal {
	g := Goal{Number: number, What: what, Wanted: "≤ " + short(limit)}
	if row, found := r.of(ours, work); found {
		g.Known, g.Measured, g.Met = true, short(of(row)), of(row) <= limit
	}
	return g
}

// ratio is the goal that ours is at most so many times the other's.
func (r results) ratio(number int, what, work, other string, limit float64, of func(Row) float64) Goal {
	g := Goal{Number: number, What: what, Wanted: "≤ " + short(limit) + "×"}
	mine, found := r.of(ours, work)
	theirs, there := r.of(other, work)
	if found && there && of(theirs) > 0 {
		n := of(mine) / of(theirs)
		g.Known, g.Measured, g.Met = true, short(n)+"×", n <= limit
	}
	return g
}

// factor is the goal that the other needs at least so many times ours.
func (r results) factor(number int, what, work, other string, limit float64, of func(Row) float64) Goal {
	g := Goal{Number: number, What: what, Wanted: "≥ " + short(limit) + "× less"}
	mine, found := r.of(ours, work)
	theirs, there := r.of(other, work)
	if found && there && of(mine) > 0 {
		n := of(theirs) / of(mine)
		g.Known, g.Measured, g.Met = true, short(n)+"×", n >= limit
	}
	return g
}

// short is a number with three digits that say something.
func short(n float64) string {
	switch {
	case n >= 100:
		return fmt.Sprintf("%.0f", n)
	case n >= 10:
		return fmt.Sprintf("%.1f", n)
	}
	return fmt.Sprintf("%.3g", n)
}

// table shows what was measured, with the ratio to ours.
func table(rows []Row) *cli.Table {
	all := index(rows)
	t := &cli.Table{Columns: cli.Columns("WORK", "TOOL", "SECONDS", "×", "CPU S/1000", "×", "REQUESTS", "HANDSHAKES", "RSS MB", "NOTE")}
	for _, r := range rows {
		if r.Skipped != "" {
			t.Add(r.Work, r.Tool, "–", "", "–", "", "–", "–", "–", r.Skipped)
			continue
		}
		note := ""
		if r.Failed > 0 {
			note = fmt.Sprintf("%d failed: %.60s", r.Failed, r.Why)
		}
		if r.Sessions > 0 {
			note += fmt.Sprintf(" %d sessions left", r.Sessions)
		}
		mine := all[[2]string{ours, r.Work}]
		t.Add(r.Work, r.Tool, short(r.Seconds), times(r.Seconds, mine.Seconds), short(r.CPUPerThousand()), times(r.CPU, mine.CPU),
			short(r.Requests), short(r.Handshakes), short(r.RSS/1e6), note)
	}
	return t
}

func times(n, of float64) string {
	if of <= 0 {
		return ""
	}
	return short(n / of)
}

package bench

import "fmt"

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

// which names a row: what one tool needed for one kind of work from one start.
type which struct {
	tool  string
	start start
	work  string
}

// results finds rows.
type results map[which]Row

func (r results) of(w which) (Row, bool) {
	row, found := r[w]
	return row, found && row.Skipped == "" && row.Failed == 0 && row.Seconds > 0
}

func index(rows []Row) results {
	all := results{}
	for _, r := range rows {
		all[which{r.Tool, r.Start, r.Work}] = r
	}
	return all
}

// ours is the tool that the goals are about.
const ours = "chiba"

// mine is a row of ours.
func mine(from start, work string) which { return which{ours, from, work} }

// judge holds the rows against the goals of performance.
func judge(rows []Row, o Options) []Goal {
	all := index(rows)
	s := o.Latency.Seconds()
	goals := []Goal{
		all.most(1, "W1, kept: requests per BMC", mine(kept, workW1), 3, Row.requests),
		all.most(1, "W1, cold: handshakes per BMC", mine(cold, workW1), 1, Row.handshakes),
		all.most(1, "W1, cold: sessions left open", mine(cold, workW1), 0, Row.sessions),
		all.most(1, "W3, kept: requests per BMC", mine(kept, workW3), 1, Row.requests),
		all.most(1, "W3 stock, kept: requests per BMC", mine(kept, workStock), sensorCount+1, Row.requests),
		all.most(2, "W1, kept: seconds", mine(kept, workW1), 3.8*s, Row.seconds),
		all.most(5, "W3, kept: CPU per BMC, µs", mine(kept, workW3), 250, Row.microseconds),
		all.most(6, "W3 stock, kept: seconds, 1 at once", mine(kept, workStock), 1.15*(sensorCount+1)*s, Row.seconds),
		all.most(6, "W3 stock, kept: seconds, 4 at once", mine(kept, workStock4), 1.4*(sensorCount+1)*s/4, Row.seconds),
		all.most(12, "memory of the lanes, MB", mine(kept, workW1), 30+0.12*float64(o.Nodes), Row.megabytes),
	}
	for _, c := range comparisons() {
		goals = append(goals, all.compare(c))
	}
	return goals
}

// comparison is a goal beside another tool that starts as ours does.
type comparison struct {
	number int
	what   string
	work   string
	other  string
	start  start
	of     func(Row) float64
	ratio  float64 // ours is at most so many times the other's; 0: see factor
	factor float64 // the other's is at least so many times ours
}

func comparisons() []comparison {
	return []comparison{
		{2, "W1: time", workW1, "ideal", kept, Row.seconds, 1.5, 0},
		{2, "W1: time", workW1, "gofish default", cold, Row.seconds, 0, 2},
		{2, "W1: time", workW1, "sushy", cold, Row.seconds, 0, 4.5},
		{3, "W1: CPU", workW1, "ideal", kept, Row.perThousand, 1.5, 0},
		{3, "W1: CPU", workW1, "ideal", cold, Row.perThousand, 1.5, 0},
		{3, "W1: CPU", workW1, "gofish default", cold, Row.perThousand, 0, 4},
		{3, "W1: CPU", workW1, "sushy", cold, Row.perThousand, 0, 40},
		{5, "W3: CPU", workW3, "gofish tuned", kept, Row.perThousand, 0, 15},
	}
}

func (r Row) requests() float64     { return r.Requests }
func (r Row) handshakes() float64   { return r.Handshakes }
func (r Row) sessions() float64     { return float64(r.Sessions) }
func (r Row) seconds() float64      { return r.Seconds }
func (r Row) megabytes() float64    { return r.RSS / 1e6 }
func (r Row) perThousand() float64  { return r.CPU / float64(max(r.Nodes, 1)) * 1000 }
func (r Row) microseconds() float64 { return r.CPU / float64(max(r.Nodes, 1)) * 1e6 }

// most is the goal that a value of a row is at most limit.
func (r results) most(number int, what string, w which, limit float64, of func(Row) float64) Goal {
	g := Goal{Number: number, What: what, Wanted: "≤ " + short(limit)}
	if row, found := r.of(w); found {
		g.Known, g.Measured, g.Met = true, short(of(row)), of(row) <= limit
	}
	return g
}

func (r results) compare(c comparison) Goal {
	g := Goal{Number: c.number, What: fmt.Sprintf("%s against %s, both %s", c.what, c.other, c.start)}
	if g.Wanted = "≤ " + short(c.ratio) + "×"; c.factor > 0 {
		g.Wanted = "≥ " + short(c.factor) + "× less"
	}
	us, found := r.of(mine(c.start, c.work))
	them, there := r.of(which{c.other, c.start, c.work})
	if !found || !there || c.of(us) <= 0 || c.of(them) <= 0 {
		return g
	}
	n := c.of(us) / c.of(them)
	if c.factor > 0 {
		n = 1 / n
	}
	g.Known, g.Measured, g.Met = true, short(n)+"×", c.factor > 0 && n >= c.factor || c.ratio > 0 && n <= c.ratio
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

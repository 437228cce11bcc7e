package bench

import (
	"fmt"

	"github.com/chiba-mesh/chiba/pkg/cli"
)

// table shows what was measured, with the ratio to ours that started alike.
func table(rows []Row) *cli.Table {
	all := index(rows)
	t := &cli.Table{Columns: cli.Columns("WORK", "START", "TOOL", "=SECONDS", "×", "CPU S/1000", "×", "REQUESTS", "HANDSHAKES", "RSS MB", "NOTE")}
	for _, r := range rows {
		if r.Skipped != "" {
			t.Add(r.Work, string(r.Start), r.Tool, "–", "", "–", "", "–", "–", "–", r.Skipped)
			continue
		}
		us := all[mine(r.Start, r.Work)]
		t.Add(r.Work, string(r.Start), r.Tool, r.Times.String(), times(r.Seconds, us.Seconds), short(r.perThousand()), times(r.CPU, us.CPU),
			short(r.Requests), short(r.Handshakes), short(r.RSS/1e6), r.note())
	}
	return t
}

// note is what a reader must know of a row.
func (r Row) note() string {
	text := ""
	if r.Failed > 0 {
		text = fmt.Sprintf("%d failed: %.60s ", r.Failed, r.Why)
	}
	if r.Sessions > 0 {
		text += fmt.Sprintf("%d sessions left", r.Sessions)
	}
	return text
}

func times(n, of float64) string {
	if of <= 0 {
		return ""
	}
	return short(n / of)
}

func verdicts(goals []Goal) *cli.Table {
	t := &cli.Table{}
	t.Columns = cli.Columns("GOAL", "WHAT", "WANTED", "MEASURED", "")
	for _, g := range goals {
		t.Add(g.Number, g.What, g.Wanted, g.Measured, g.Verdict())
	}
	return t
}

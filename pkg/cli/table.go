package cli

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// minWidth is how narrow a column may be cut.
const minWidth = 6

// Column of a table.
type Column struct {
	Name string
	Wide bool // only with -o wide
	Keep bool // never cut: a part of it says nothing
}

// Cell of a table.
type Cell struct {
	Text   string
	Colour Colour
}

// Table is rows under columns; every row has a cell per column.
type Table struct {
	Columns []Column
	Rows    [][]Cell
}

// Columns makes columns of names; one that begins with "+" is only for -o wide,
// one with "=" is never cut.
func Columns(names ...string) []Column {
	cols := make([]Column, len(names))
	for i, n := range names {
		n, cols[i].Keep = strings.CutPrefix(n, "=")
		cols[i].Name, cols[i].Wide = strings.CutPrefix(n, "+")
	}
	return cols
}

// Add adds a row: of strings, Cells, or what fmt prints.
func (t *Table) Add(cells ...any) {
	row := make([]Cell, len(cells))
	for i, c := range cells {
		switch c := c.(type) {
		case Cell:
			row[i] = c
		case string:
			row[i] = Cell{Text: c}
		default:
			row[i] = Cell{Text: fmt.Sprint(c)}
		}
	}
	t.Rows = append(t.Rows, row)
}

// Print writes t to cmd's output as its flags say.
func (t *Table) Print(cmd *cobra.Command) {
	t.Write(cmd.OutOrStdout(), Layout{
		Screen:    ScreenOf(cmd.OutOrStdout()),
		Wide:      text(cmd, "output") == string(WideFormat),
		NoHeaders: text(cmd, "no-headers") == "true",
	})
}

// Layout of a table.
type Layout struct {
	Screen    Screen
	Wide      bool
	NoHeaders bool
}

// Write writes t with its columns aligned. On a terminal, and not with Wide,
// the widest columns are cut until a line fits.
func (t *Table) Write(w io.Writer, l Layout) {
	var rows [][]Cell
	if !l.NoHeaders {
		rows = append(rows, t.header())
	}
	rows = append(rows, t.Rows...)
	shown := t.shown(l.Wide)
	widths := make([]int, len(shown))
	lines := make([][]Cell, len(rows))
	for r, row := range rows {
		lines[r] = make([]Cell, len(shown))
		for i, c := range shown {
			cell := row[c]
			if cell.Text = Clean(cell.Text); cell.Text == "" {
				cell.Text = "-"
			}
			lines[r][i] = cell
			widths[i] = max(widths[i], width(cell.Text))
		}
	}
	if l.Screen.Terminal && !l.Wide {
		fit(widths, t.kept(shown), l.Screen.Width)
	}
	for _, line := range lines {
		writeLine(w, line, widths, l.Screen)
	}
}

func (t *Table) header() []Cell {
	cells := make([]Cell, len(t.Columns))
	for i, c := range t.Columns {
		cells[i] = Cell{Text: c.Name, Colour: Faint}
	}
	return cells
}

// shown are the indexes of the columns to print.
func (t *Table) shown(wide bool) []int {
	var at []int
	for i, c := range t.Columns {
		if wide || !c.Wide {
			at = append(at, i)
		}
	}
	return at
}

func (t *Table) kept(shown []int) []bool {
	kept := make([]bool, len(shown))
	for i, c := range shown {
		kept[i] = t.Columns[c].Keep
	}
	return kept
}

// fit cuts the widest column that is not kept, again and again, until all fit
// into total.
func fit(widths []int, kept []bool, total int) {
	sum := 2 * (len(widths) - 1)
	for _, w := range widths {
		sum += w
	}
	for ; sum > total; sum-- {
		widest := -1
		for i, w := range widths {
			if !kept[i] && (widest < 0 || w >= widths[widest]) {
				widest = i
			}
		}
		if widest < 0 || widths[widest] <= minWidth {
			return
		}
		widths[widest]--
	}
}

func writeLine(w io.Writer, cells []Cell, widths []int, s Screen) {
	var b strings.Builder
	for i, c := range cells {
		cut := Cut(c.Text, widths[i])
		b.WriteString(s.Paint(c.Colour, cut))
		if i < len(cells)-1 {
			b.WriteString(strings.Repeat(" ", widths[i]-width(cut)+2))
		}
	}
	fmt.Fprintln(w, b.String())
}

func width(s string) int { return utf8.RuneCountInString(s) }

// Cut is s in at most n columns, with "…" where something is missing.
func Cut(s string, n int) string {
	if width(s) <= n {
		return s
	}
	return string([]rune(s)[:max(n-1, 0)]) + "…"
}

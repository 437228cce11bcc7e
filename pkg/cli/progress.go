package cli

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Progress shows how far several things are: a live line each on a terminal,
// else a line per event. It is for one goroutine; the time is passed in.
type Progress struct {
	w      io.Writer
	screen Screen
	start  time.Time
	bars   []Bar
	drawn  int // lines of the live picture on the screen
}

// Bar is how far one thing is.
type Bar struct {
	Name                string
	Total, Done, Failed int // Total 0: not known yet
	Note                string
	Ended               bool
}

// NewProgress starts at now.
func NewProgress(w io.Writer, now time.Time) *Progress {
	return &Progress{w: w, screen: ScreenOf(w), start: now}
}

// Live reports whether the picture is redrawn in place.
func (p *Progress) Live() bool { return p.screen.Terminal }

// Set puts b in the place of the bar of the same name. Not on a terminal, it
// prints a line when b begins, fails or ends.
func (p *Progress) Set(b Bar) {
	for i := range p.bars {
		if p.bars[i].Name != b.Name {
			continue
		}
		old := p.bars[i]
		p.bars[i] = b
		news := old.Note != b.Note || old.Failed != b.Failed || old.Ended != b.Ended // not for each that went well
		if news && old.text() != b.text() {
			p.say(b)
		}
		return
	}
	p.bars = append(p.bars, b)
	p.say(b)
}

func (p *Progress) say(b Bar) {
	if !p.Live() {
		fmt.Fprintln(p.w, Clean(b.text()))
	}
}

// Draw brings the live picture up to date.
func (p *Progress) Draw(now time.Time) {
	if !p.Live() {
		return
	}
	lines := p.lines(now)
	var b strings.Builder
	b.WriteString(p.erase())
	for _, l := range lines {
		b.WriteString(l + "\n")
	}
	p.drawn = len(lines)
	_, _ = io.WriteString(p.w, b.String())
}

// Clear takes the live picture off the screen, to print something else or to
// end.
func (p *Progress) Clear() {
	if p.Live() && p.drawn > 0 {
		_, _ = io.WriteString(p.w, p.erase())
		p.drawn = 0
	}
}

func (p *Progress) erase() string {
	if p.drawn == 0 {
		return ""
	}
	return fmt.Sprintf("\r\x1b[%dA\x1b[J", p.drawn) // \r: a Ctrl-C has echoed "^C"
}

// lines are the bars that fit the screen, unfinished ones first when there
// isn't room for all, and a line for the whole.
func (p *Progress) lines(now time.Time) []string {
	room := max(p.screen.Height-3, 1)
	shown := p.bars
	if len(shown) > room {
		shown = append(p.pick(false), p.pick(true)...)[:room]
	}
	name := 0
	for _, b := range shown {
		name = max(name, width(b.Name))
	}
	lines := make([]string, 0, len(shown)+1)
	for _, b := range shown {
		line := Cut(fmt.Sprintf("%-*s  %s", name, Clean(b.Name), Clean(b.live())), p.screen.Width-1)
		lines = append(lines, p.screen.Paint(b.colour(), line))
	}
	return append(lines, Cut(p.summary(now, len(p.bars)-len(shown)), p.screen.Width-1))
}

func (p *Progress) pick(ended bool) []Bar {
	var out []Bar
	for _, b := range p.bars {
		if b.Ended == ended {
			out = append(out, b)
		}
	}
	return out
}

func (p *Progress) summary(now time.Time, hidden int) string {
	var all Bar
	for _, b := range p.bars {
		all.Total, all.Done, all.Failed = all.Total+b.Total, all.Done+b.Done, all.Failed+b.Failed
	}
	past := now.Sub(p.start)
	s := fmt.Sprintf("%d/%d done, %d failed, %s", all.Done, all.Total, all.Failed, past.Round(time.Second))
	if all.Done > 0 && all.Done < all.Total {
		left := time.Duration(float64(past) / float64(all.Done) * float64(all.Total-all.Done))
		s += fmt.Sprintf(", about %s left", max(left.Round(time.Second), time.Second))
	}
	if hidden > 0 {
		s += fmt.Sprintf(" (and %d more)", hidden)
	}
	return s
}

const barWidth = 20

func (b Bar) live() string {
	if b.Total == 0 {
		return b.state()
	}
	full := min(barWidth*b.Done/b.Total, barWidth)
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", barWidth-full) + "] " + b.state()
}

func (b Bar) text() string { return b.Name + ": " + b.state() }

// state is b without its name: "3/8 done, 1 failed, running".
func (b Bar) state() string {
	var parts []string
	if b.Total > 0 {
		parts = append(parts, fmt.Sprintf("%d/%d done", b.Done, b.Total))
	}
	if b.Failed > 0 {
		parts = append(parts, fmt.Sprintf("%d failed", b.Failed))
	}
	if b.Note != "" {
		parts = append(parts, b.Note)
	}
	return strings.Join(parts, ", ")
}

func (b Bar) colour() Colour {
	switch {
	case b.Failed > 0:
		return Bad
	case b.Ended:
		return Good
	default:
		return Plain
	}
}

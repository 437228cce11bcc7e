package dev

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/obs"
)

// teller is a slog.Handler for the person at the terminal of chiba dev: a line
// for each thing worth knowing, with the time of day, the message and what goes
// with it. Levels below Warn are for --verbose, which logs as the services do.
// It is safe for use by several goroutines.
type teller struct {
	mu    *sync.Mutex // guards out
	out   io.Writer
	attrs []slog.Attr
}

func newTeller(out io.Writer) *teller { return &teller{mu: &sync.Mutex{}, out: out} }

// Enabled reports whether a level is worth a person's time.
func (t *teller) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

// WithAttrs is t with attributes that ride with every line.
func (t *teller) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &teller{mu: t.mu, out: t.out, attrs: append(slices.Clip(t.attrs), attrs...)}
}

// WithGroup is t: our keys need no qualifying.
func (t *teller) WithGroup(string) slog.Handler { return t }

// Handle writes one line.
func (t *teller) Handle(_ context.Context, r slog.Record) error {
	attrs := append([]slog.Attr{}, t.attrs...)
	r.Attrs(func(a slog.Attr) bool { attrs = append(attrs, a); return true })
	line := r.Time.Format(time.TimeOnly) + "  "
	if r.Level >= slog.LevelError {
		line += "error: "
	}
	line += r.Message
	if rest := told(r.Message, attrs); rest != "" {
		line += ": " + rest
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	_, err := fmt.Fprintln(t.out, cli.Clean(line))
	return err
}

// told is what goes with a message: key=value, without what is empty. A rule
// that fires is what people wait for, so it reads as a sentence.
func told(message string, attrs []slog.Attr) string {
	values := map[string]string{}
	var pairs []string
	for _, a := range attrs {
		text := a.Value.Resolve().String()
		if text == "" {
			continue
		}
		values[a.Key] = text
		if strings.ContainsAny(text, " =\"\n") {
			text = strconv.Quote(text)
		}
		pairs = append(pairs, a.Key+"="+text)
	}
	if message != "rule fired" {
		return strings.Join(pairs, " ")
	}
	s := values[obs.Script] + "/" + values[obs.Rule] + " on " + values[obs.Node]
	if held := values[obs.Reason]; held != "" {
		s += ", held back: " + held
	}
	return s
}

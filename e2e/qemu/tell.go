//go:build linux

package main

import (
	"fmt"
	"io"
	"time"
)

// teller writes what happens for a person: a line for each thing, with the time
// since the run began.
type teller struct {
	out   io.Writer
	began time.Time
}

func (t teller) say(format string, args ...any) {
	fmt.Fprintf(t.out, "[%6.1fs] "+format+"\n", append([]any{time.Since(t.began).Seconds()}, args...)...)
}

// show writes a text below the line before.
func (t teller) show(text string) { fmt.Fprint(t.out, indent(text)) }

// Package proc runs a program whose output is watched: line by line, while it
// runs, with the last of it kept for when something goes wrong.
package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// kept is how many lines are remembered.
const kept = 2000

// orphans is how long what a dead process started may go on talking for it.
const orphans = time.Second

// Process is a running program. Its methods are safe for concurrent use.
type Process struct {
	name string
	cmd  *exec.Cmd
	log  *log
	done chan struct{}
	err  error // how it ended, once done is closed
}

// Start runs a program under a name for messages. All that it says is also written
// to keep, as it comes. Who starts it must Stop it.
func Start(name string, keep io.Writer, program string, args ...string) (*Process, error) {
	p := &Process{name: name, log: &log{keep: keep, more: make(chan struct{})}, done: make(chan struct{})}
	p.cmd = exec.CommandContext(context.Background(), program, args...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.WaitDelay = orphans
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// PID is the number of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Kill ends the process without a chance to clean up, and does not wait for its end.
func (p *Process) Kill() { _ = p.cmd.Process.Kill() }

// Name is the one given to Start.
func (p *Process) Name() string { return p.name }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Lines is how many lines it has said so far: a place to Wait from.
func (p *Process) Lines() int { return p.log.count() }

// Wait is the first line from number from on that holds one of texts, as soon as it
// is said, and the number of the line after it. It is an error if ctx or the process
// ends before.
func (p *Process) Wait(ctx context.Context, from int, texts ...string) (line string, next int, err error) {
	for {
		// Asked before looking: what was said before the end is seen.
		ended := p.ended()
		line, seen, more := p.log.find(from, texts)
		if line != "" {
			return line, seen, nil
		}
		from = seen
		if ended {
			return "", seen, fmt.Errorf("%s ended (%w) and never said %q", p.name, p.how(), texts[0])
		}
		select {
		case <-more:
		case <-p.done:
		case <-ctx.Done():
			return "", seen, fmt.Errorf("wait for %s to say %q: %w", p.name, texts[0], context.Cause(ctx))
		}
	}
}

func (p *Process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

var errEnded = errors.New("exit status 0")

// how is how it ended.
func (p *Process) how() error {
	if p.err == nil {
		return errEnded
	}
	return p.err
}

// Tail is the last lines it has said.
func (p *Process) Tail(lines int) string { return p.log.tail(lines) }

// Stop asks the process to end and, after grace, kills it; it returns how it ended.
func (p *Process) Stop(grace time.Duration) error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(grace):
		p.Kill()
		<-p.done
	}
	return p.err
}

// log cuts what is written to it into lines.
type log struct {
	mu    sync.Mutex
	keep  io.Writer
	lines []string
	lost  int // lines before those
	rest  []byte
	more  chan struct{} // closed and renewed with each line
}

// Write never fails: a full disk must not end what is being watched.
func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.keep.Write(p)
	l.rest = append(l.rest, p...)
	for {
		line, rest, whole := bytes.Cut(l.rest, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		l.rest = rest
		l.lines = append(l.lines, strings.TrimRight(string(line), "\r"))
		if len(l.lines) > kept {
			l.lines, l.lost = l.lines[1:], l.lost+1
		}
		close(l.more)
		l.more = make(chan struct{})
	}
}

func (l *log) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost + len(l.lines)
}

// find looks at the lines from number from on; next is where to go on, more is closed
// when there is more to see.
func (l *log) find(from int, texts []string) (line string, next int, more <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	end := l.lost + len(l.lines)
	for n := max(from, l.lost); n < end; n++ {
		for _, text := range texts {
			if line := l.lines[n-l.lost]; strings.Contains(line, text) {
				return line, n + 1, l.more
			}
		}
	}
	return "", end, l.more
}

func (l *log) tail(lines int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.lines[max(0, len(l.lines)-lines):]
	if len(l.rest) > 0 {
		out = append(slices.Clip(out), string(l.rest))
	}
	return strings.Join(out, "\n")
}

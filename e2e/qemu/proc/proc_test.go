package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shell runs a script until the test ends.
func shell(t *testing.T, keep io.Writer, script string) *Process {
	t.Helper()
	p, err := Start("the script", keep, "sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Stop(time.Second) })
	return p
}

func TestWaitSeesLinesOnceTheyAreSaid(t *testing.T) {
	var keep strings.Builder
	p := shell(t, &keep, "echo one; echo two; printf 'three\\r\\n'; echo one again; printf half")
	for _, c := range []struct {
		from       int
		text, want string
	}{{0, "one", "one"}, {0, "three", "three"}, {1, "one", "one again"}} {
		if line, _, err := p.Wait(t.Context(), c.from, c.text); err != nil || line != c.want {
			t.Errorf("from %d %q: %q, %v", c.from, c.text, line, err)
		}
	}
	if line, _, err := p.Wait(t.Context(), 0, "nothing", "two"); err != nil || line != "two" {
		t.Errorf("one of two texts: %q, %v", line, err)
	}
	_, _, err := p.Wait(t.Context(), 0, "four")
	if err == nil || err.Error() != `the script ended (exit status 0) and never said "four"` {
		t.Errorf("after the end: %v", err)
	}
	if got := p.Tail(2); got != "three\none again\nhalf" && got != "one again\nhalf" {
		t.Errorf("the tail is %q", got)
	}
	if want := "one\ntwo\nthree\r\none again\nhalf"; keep.String() != want {
		t.Errorf("kept is %q", keep.String())
	}
	if _, next, err := p.Wait(t.Context(), 1, "one"); err != nil || next != 4 {
		t.Errorf("after the second one comes line %d, %v", next, err)
	}
	if p.Lines() != 4 {
		t.Errorf("%d lines", p.Lines())
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	p := shell(t, io.Discard, "exec sleep 60")
	ctx, stop := context.WithCancelCause(t.Context())
	stop(errors.New("out of time"))
	if _, _, err := p.Wait(ctx, 0, "hello"); err == nil || err.Error() != `wait for the script to say "hello": out of time` {
		t.Error(err)
	}
}

func TestStop(t *testing.T) {
	polite := shell(t, io.Discard, "trap 'echo bye; exit 0' TERM; echo up; while :; do :; done")
	if _, _, err := polite.Wait(t.Context(), 0, "up"); err != nil {
		t.Fatal(err)
	}
	if err := polite.Stop(10 * time.Second); err != nil || polite.Tail(1) != "bye" {
		t.Errorf("%v, %q", err, polite.Tail(1))
	}
	deaf := shell(t, io.Discard, "trap '' TERM; echo up; while :; do :; done")
	if _, _, err := deaf.Wait(t.Context(), 0, "up"); err != nil {
		t.Fatal(err)
	}
	if err := deaf.Stop(10 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("who is deaf ended with %v", err)
	}
}

func TestStartSaysWhatItCantStart(t *testing.T) {
	if _, err := Start("nobody", io.Discard, "/no/such/program"); err == nil || !strings.HasPrefix(err.Error(), "start nobody: ") {
		t.Error(err)
	}
}

func TestOnlyTheLastLinesAreKept(t *testing.T) {
	l := &log{keep: io.Discard, more: make(chan struct{})}
	for i := range kept + 10 {
		fmt.Fprintf(l, "line %d\n", i)
	}
	if len(l.lines) != kept || l.count() != kept+10 || l.tail(1) != fmt.Sprintf("line %d", kept+9) {
		t.Errorf("%d lines of %d, the last is %q", len(l.lines), l.count(), l.tail(1))
	}
	if line, _, _ := l.find(0, []string{"line 3"}); line != "line 30" {
		t.Errorf("the first that is there is %q", line)
	}
	if line, _, _ := l.find(kept+9, []string{"line"}); line != fmt.Sprintf("line %d", kept+9) {
		t.Errorf("from the last on: %q", line)
	}
}

// What a process leaves behind may hold its output; its end is the end all the same.
func TestKillDoesNotWaitForWhatIsLeftBehind(t *testing.T) {
	p := shell(t, io.Discard, "sleep 20 & echo up; wait")
	if _, _, err := p.Wait(t.Context(), 0, "up"); err != nil {
		t.Fatal(err)
	}
	p.Kill()
	select {
	case <-p.Done():
	case <-time.After(10 * time.Second):
		t.Error("the process is dead, and not done")
	}
}

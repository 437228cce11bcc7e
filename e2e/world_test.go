package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	// The binary under test is made of these. Without them here go would take
	// an earlier result of these tests for one of the changed binary.
	_ "github.com/chiba-mesh/chiba/e2e/dev"
	_ "github.com/chiba-mesh/chiba/pkg/ctl"
)

// binary is the chiba under test, built once.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "chiba-e2e-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "chiba")
	build := exec.CommandContext(context.Background(), "go", "build", "-o", binary, "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(string(out))
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// patience bounds every wait of these tests. It is generous: a wait ends when
// what it waits for happens.
const patience = 60 * time.Second

// world is a state directory and the processes that run on it.
type world struct {
	t   *testing.T
	dir string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	// A short path: unix sockets live in it.
	dir, err := os.MkdirTemp("", "cw") //nolint:usetesting // t.TempDir's are too long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &world{t: t, dir: dir}
}

// process is a running chiba.
type process struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	out  *transcript
	done chan struct{}
	err  error
}

// start runs chiba with args on the world's state until it is killed.
func (w *world) start(args ...string) *process {
	w.t.Helper()
	args = append(args, "--state", w.dir)
	cmd := exec.CommandContext(context.Background(), binary, args...)
	p := &process{t: w.t, name: strings.Join(args, " "), cmd: cmd, out: newTranscript(), done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.out, p.out
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	// done first: who is told that it says no more may ask whether it is dead.
	go func() { p.err = cmd.Wait(); close(p.done); p.out.end() }()
	w.t.Cleanup(func() {
		p.kill()
		if w.t.Failed() {
			w.t.Logf("chiba %s said:\n%s", p.name, p.out.String())
		}
	})
	return p
}

// dev starts `chiba dev` and waits until it is ready.
func (w *world) dev(args ...string) *process {
	w.t.Helper()
	p := w.start(append([]string{"dev"}, args...)...)
	p.wait("ready in")
	return p
}

// wait returns the first line that holds text, once the process has said it.
func (p *process) wait(text string) string {
	p.t.Helper()
	line, ok := p.out.find(text, patience)
	if !ok {
		p.t.Fatalf("chiba %s never said %q; it said:\n%s", p.name, text, p.out.String())
	}
	return line
}

// kill is kill -9.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// interrupt is Ctrl-C; it waits for the end and returns the exit code.
func (p *process) interrupt() int {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("chiba %s did not stop on Ctrl-C", p.name)
	}
	return p.cmd.ProcessState.ExitCode()
}

// outcome is what one command did.
type outcome struct {
	stdout, stderr string
	code           int
	took           time.Duration
}

// run runs one chiba command to its end.
func (w *world) run(args ...string) outcome {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, append(args, "--state", w.dir)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatalf("chiba %v: %v", args, err)
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode(), time.Since(began)}
}

// must runs a command that has to succeed and returns its output.
func (w *world) must(args ...string) string {
	w.t.Helper()
	got := w.run(args...)
	if got.code != 0 {
		w.t.Fatalf("chiba %v: exit %d\n%s%s", args, got.code, got.stdout, got.stderr)
	}
	return got.stdout
}

// decode runs a command with -o json and decodes what it prints into v.
func (w *world) decode(v any, args ...string) {
	w.t.Helper()
	out := w.must(append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), v); err != nil {
		w.t.Fatalf("chiba %v -o json: %v\n%s", args, err, out)
	}
}

// linked waits until the rack's agent is connected.
func (w *world) linked() {
	w.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		var agents []agent
		w.decode(&agents, "get", "agents")
		if len(agents) == 1 && agents[0].Connected {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("the agent did not come back: %+v", agents)
		}
	}
}

// file writes a script into a directory of its own and returns its path.
func (w *world) file(name, text string) string {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// transcript collects what a process says and lets others wait for a line.
type transcript struct {
	mu    sync.Mutex
	lines []string
	rest  []byte
	ended bool
	more  chan struct{} // closed and renewed whenever a line comes
}

func newTranscript() *transcript { return &transcript{more: make(chan struct{})} }

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rest = append(t.rest, p...)
	reader := bufio.NewReader(bytes.NewReader(t.rest))
	for {
		line, err := reader.ReadString('\n')
		if errors.Is(err, io.EOF) {
			t.rest = []byte(line)
			break
		}
		t.lines = append(t.lines, strings.TrimRight(line, "\n"))
	}
	close(t.more)
	t.more = make(chan struct{})
	return len(p), nil
}

func (t *transcript) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	close(t.more)
	t.more = make(chan struct{})
}

func (t *transcript) find(text string, within time.Duration) (string, bool) {
	return t.findAny(within, text)
}

// findAny is the first line that holds one of the texts.
func (t *transcript) findAny(within time.Duration, texts ...string) (string, bool) {
	deadline := time.After(within)
	for seen := 0; ; {
		t.mu.Lock()
		lines, ended, more := t.lines[seen:], t.ended, t.more
		t.mu.Unlock()
		for _, line := range lines {
			if slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(line, text) }) {
				return line, true
			}
		}
		seen += len(lines)
		if ended {
			return "", false
		}
		select {
		case <-more:
		case <-deadline:
			return "", false
		}
	}
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "\n") + "\n" + string(t.rest)
}

package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	lastPort.Store(10_000 + int32(os.Getpid()%1000)*20) // not where another run begins
	sideBySide()
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// sideBySide has four tests run at once, unless it was said how many shall: a world
// spends most of its time waiting, and on two cores twice as many is what they bear.
func sideBySide() {
	flag.Parse()
	said := false
	flag.Visit(func(f *flag.Flag) { said = said || f.Name == "test.parallel" })
	if !said {
		_ = flag.Set("test.parallel", "4")
	}
}

// patience bounds every wait of these tests. It is generous: a wait ends when
// what it waits for happens.
const patience = 60 * time.Second

// world is a state directory and the processes that run on it.
type world struct {
	t   *testing.T
	dir string
	env []string // of the commands that run to their end; nil: ours
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOf(t, 1)
}

// newWorldOf is a world with so many coordinators.
func newWorldOf(t *testing.T, coordinators int) *world {
	t.Helper()
	// A short path: unix sockets live in it.
	dir, err := os.MkdirTemp("", "cw") //nolint:usetesting // t.TempDir's are too long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{t: t, dir: dir}
	err = os.WriteFile(filepath.Join(dir, "size.yaml"), fmt.Appendf(nil, "coordinators: %d\n", coordinators), 0o600)
	for n := range coordinators {
		err = errors.Join(err, w.settle(fmt.Sprintf("c%d", n+1)))
	}
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// settle gives a coordinator addresses of its own, as if it had been there before: it
// comes back to them when it was killed, whoever has started meanwhile.
func (w *world) settle(name string) error {
	w.t.Helper()
	dir := filepath.Join(w.dir, coordinatorParts[name])
	err := os.Mkdir(dir, 0o700)
	for _, file := range []string{"mesh.addr", "api.addr", "peer.addr"} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, file), []byte(freePort(w.t)), 0o600))
	}
	return err
}

// lastPort is the port that was given away last. They are below those that the system
// gives to who asks for any: those could be taken while their owner is dead.
var lastPort atomic.Int32

// freePort is an address on which nobody listens, over TCP or UDP, and which no other
// world is given.
func freePort(t *testing.T) string {
	t.Helper()
	for {
		addr := fmt.Sprintf("127.0.0.1:%d", lastPort.Add(1))
		tcp, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
		if err != nil {
			continue
		}
		udp, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", addr)
		_ = tcp.Close()
		if err == nil {
			_ = udp.Close()
			return addr
		}
	}
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

// dev starts `chiba dev` and waits until it is ready, and its rack is known.
func (w *world) dev(args ...string) *process {
	w.t.Helper()
	p := w.start(append([]string{"dev"}, args...)...)
	p.wait("ready in")
	w.known(8)
	return p
}

// known waits until the coordinators know so many servers: an agent that is slow is
// ready before it has told of all.
func (w *world) known(servers int) {
	w.t.Helper()
	w.until(fmt.Sprintf("%d servers are known", servers), func() bool {
		var nodes []node
		w.decode(&nodes, "get", "nodes")
		return len(nodes) == servers
	})
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
	cmd.Stdout, cmd.Stderr, cmd.Env = &stdout, &stderr, w.env
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
	w.until("the agent is connected", func() bool {
		var agents []agent
		w.decode(&agents, "get", "agents")
		return len(agents) == 1 && agents[0].Connected
	})
}

// eventually reports whether what is asked becomes true in time. It asks again and
// again, and leaves the machine to the others between.
func eventually(ask func() bool) bool {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for over := time.After(patience); !ask(); {
		select {
		case <-again.C:
		case <-over:
			return false
		}
	}
	return true
}

// until waits until it is so.
func (w *world) until(what string, is func() bool) {
	w.t.Helper()
	if !eventually(is) {
		w.t.Fatalf("it did not happen: %s\n%s%s", what, w.run("get", "coordinators").stdout, w.run("get", "agents").stdout)
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

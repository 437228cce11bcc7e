package wan

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	// The binary under test is made of these. Without them here go would take
	// an earlier result of these tests for one of the changed binary.
	_ "github.com/chiba-mesh/chiba/e2e/dev"
	_ "github.com/chiba-mesh/chiba/pkg/ctl"
)

const (
	// insideVar says to a child that it is the one in the namespaces, or, in the
	// process that could not make them, why.
	insideVar = "CHIBA_WAN_INSIDE"
	// chaosVar set makes the drills long: make chaos.
	chaosVar = "CHIBA_CHAOS"
	// room is a directory of every Linux that we hide below memory of our own. It
	// is not that of temporary files: the repository may lie there.
	room = "/mnt"
)

// TestMain runs this program again as process 1 of namespaces of its own. What it
// starts ends with it, its networks and files go with it, and the kernel kills it
// when we end, however that comes.
func TestMain(m *testing.M) {
	runtime.LockOSThread() // the child lives as long as this thread
	if os.Getenv(insideVar) != "" {
		os.Exit(inside(m))
	}
	child := exec.CommandContext(context.Background(), "/proc/self/exe", os.Args[1:]...)
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.Env = append(os.Environ(), insideVar+"=1")
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
	if err == nil {
		err = child.Run()
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(max(1, exit.ExitCode()))
	case err != nil: // not allowed here: the tests say so, and are skipped
		why = "only root can make networks: " + err.Error()
		os.Exit(m.Run())
	}
}

var (
	why    string // the tests can't run; empty: they can
	binary string // the chiba under test
)

func inside(m *testing.M) int {
	if err := furnish(); err != nil {
		fmt.Fprintln(os.Stderr, "make a place to test in:", err)
		return 1
	}
	code := m.Run()
	if chaos() {
		fmt.Println(&shown)
	}
	return code
}

// checked counts what every coordinator was found to have.
type checked struct{ firings, results, records int }

// tally is what all drills of a run have shown.
type tally struct {
	mu             sync.Mutex
	drills, failed int
	checked
}

var shown tally

// end counts a drill, and what it has shown.
func (y *tally) end(t *testing.T, w *world) {
	t.Helper()
	y.mu.Lock()
	defer y.mu.Unlock()
	y.drills++
	y.firings, y.results, y.records = y.firings+w.shown.firings, y.results+w.shown.results, y.records+w.shown.records
	if t.Failed() {
		y.failed++
	}
}

// String is the last line of make chaos.
func (y *tally) String() string {
	if y.failed > 0 || y.drills == 0 {
		return fmt.Sprintf("chaos: drills: %d failed: %d", y.drills, y.failed)
	}
	return fmt.Sprintf("chaos: drills: %d failed: 0; %d firings and %d results, each once, in order and the same at every coordinator; %d audit records verified at each",
		y.drills, y.firings, y.results, y.records)
}

// furnish gives us mounts of our own, with memory for all files, and builds chiba.
func furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep our mounts to ourselves: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("chiba-wan", room, "tmpfs", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount memory on %s: %w", room, err)
	}
	if err := os.Setenv("TMPDIR", room); err != nil {
		return err
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		why = "this kernel has no TAP interfaces: " + err.Error()
		return nil
	}
	binary = filepath.Join(room, "chiba")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "../..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build chiba: %w\n%s", err, out)
	}
	return nil
}

// drill skips t if it can't run here. Short drills run side by side.
func drill(t *testing.T) {
	t.Helper()
	switch {
	case chaos() && why != "":
		t.Fatal(why)
	case why != "":
		t.Skip(why)
	case !chaos():
		t.Parallel()
	}
}

// chaos reports whether the drills take their real time, one after the other, and
// tell a person how far they are.
func chaos() bool { return os.Getenv(chaosVar) != "" }

// long reports whether the drills shall take their real time, and skips a drill that
// has no short form otherwise.
func long(t *testing.T) {
	t.Helper()
	if !chaos() {
		t.Skip("a long drill: make chaos")
	}
}

// pick is the one with make chaos, else the other.
func pick[T any](short, long T) T {
	if chaos() {
		return long
	}
	return short
}

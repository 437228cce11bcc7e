package discover

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// The tests with a network of their own run this binary again in a fresh network
// namespace, which has no way out, and a rack of it in a second one behind a pair
// of virtual cables:
//
//	va 10.9.0.1/24 fe80::1  <->  vb 10.9.0.2/24 fe80::2 …    the BMC network
//	vc 10.8.0.1/24 fe80::c1 <->  vd 10.8.0.2/24 fe80::c2     another one
//
// They need root and iproute2, and say so where they can't run.
const (
	insideVar = "CHIBA_TEST_NAMESPACE"
	rackVar   = "CHIBA_TEST_RACK"
)

func TestMain(m *testing.M) {
	if kind := os.Getenv(rackVar); kind != "" {
		if err := runRack(kind); err != nil {
			fmt.Println("the rack:", err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// inside runs the calling test in a namespace of its own. It reports whether this
// is the process inside; outside, the test is over when it returns.
func inside(tb testing.TB) bool {
	tb.Helper()
	if os.Getenv(insideVar) == tb.Name() {
		sh(tb, "ip link set lo up")
		return true
	}
	if os.Getuid() != 0 {
		tb.Skip("it makes a network namespace, which needs root: sudo go test ./discovery/discover")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		tb.Skip("it makes a network namespace, which needs iproute2")
	}
	args := []string{"-test.run=^" + strings.ReplaceAll(tb.Name(), "/", "$/^") + "$", "-test.v"}
	if _, ok := tb.(*testing.B); ok {
		args = []string{"-test.run=^$", "-test.bench=^" + tb.Name() + "$", "-test.benchtime=20x"}
	}
	cmd := exec.CommandContext(tb.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), insideVar+"="+tb.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil && len(out) == 0:
		tb.Skipf("no network namespace is to be had here: %v", err)
	case err != nil:
		tb.Errorf("%v\n%s", err, out)
	default:
		tb.Logf("%s", out)
	}
	return false
}

// rack starts a rack of a kind in a second namespace and waits until it is there.
// It ends with the test.
func rack(tb testing.TB, kind string) *rackProcess {
	tb.Helper()
	cmd := exec.Command(os.Args[0]) // it ends when its input does, after the test
	cmd.Env = append(os.Environ(), rackVar+"="+kind)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		sh(tb, "ip link del va")
		sh(tb, "ip link del vc")
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			tb.Errorf("the rack ended with %v\n%s", err, errs.String())
		}
	})
	for _, at := range []struct{ near, far, v4, v6 string }{{"va", "vb", "10.9.0.1/24", "fe80::1/64"}, {"vc", "vd", "10.8.0.1/24", "fe80::c1/64"}} {
		sh(tb, fmt.Sprintf("ip link add %s type veth peer name %s netns %d", at.near, at.far, cmd.Process.Pid))
		up(tb, at.near, at.v4, at.v6)
	}
	r := &rackProcess{t: tb, in: in, out: bufio.NewScanner(out)}
	r.say("cables")
	r.hear("ready")
	return r
}

type rackProcess struct {
	t   testing.TB
	in  io.Writer
	out *bufio.Scanner
}

func (r *rackProcess) say(line string) { fmt.Fprintln(r.in, line) }

// hear waits for a line that begins with word and returns the rest of it.
func (r *rackProcess) hear(word string) string {
	r.t.Helper()
	for r.out.Scan() {
		if rest, ok := strings.CutPrefix(r.out.Text(), word); ok {
			return strings.TrimSpace(rest)
		}
		r.t.Log(r.out.Text())
	}
	r.t.Fatalf("the rack ended before it said %q", word)
	return ""
}

// up brings an interface up with addresses that are valid at once.
func up(tb testing.TB, name string, addrs ...string) {
	tb.Helper()
	if err := upErr(name, addrs...); err != nil {
		tb.Fatal(err)
	}
}

func upErr(name string, addrs ...string) error {
	lines := []string{"ip link set " + name + " addrgenmode none", "ip link set " + name + " up"}
	for _, a := range addrs {
		if a == "" {
			continue
		}
		line := "ip addr add " + a + " dev " + name
		if strings.Contains(a, ":") {
			line += " nodad"
		}
		lines = append(lines, line)
	}
	for _, line := range lines {
		words := strings.Fields(line)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, out)
		}
	}
	return nil
}

func sh(tb testing.TB, line string) {
	tb.Helper()
	words := strings.Fields(line)
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		tb.Fatalf("%s: %v: %s", line, err, out)
	}
}

// residentMB is the largest memory this process has had, in MiB.
func residentMB(tb testing.TB) int {
	tb.Helper()
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		tb.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "VmHWM:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		tb.Fatal(err)
	}
	return kb >> 10
}

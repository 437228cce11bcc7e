package wan

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/e2e/qemu/proc"
)

// A run of these tests that is killed leaves nothing behind: not a process, and no
// mount. Its networks go with its processes.
func TestKilledRun(t *testing.T) {
	long(t)
	drill(t)
	t.Setenv(insideVar, "") // it begins as we did
	p, err := proc.Start("the run", new(bytes.Buffer), "/proc/self/exe", "-test.v", "-test.run", "^TestWANCut$/^plain$")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Stop(0) }()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var alive []string
	for len(alive) < 10 { // three of each, and the run
		if alive = chibas(t, p.PID()); ctx.Err() != nil {
			t.Fatalf("it has only %v\n%s", alive, p.Tail(30))
		}
		<-time.After(again)
	}
	p.Kill()
	<-p.Done()
	for left := alive; len(left) > 0; left = chibas(t, p.PID()) {
		if ctx.Err() != nil {
			t.Fatalf("these are left: %v", left)
		}
		<-time.After(again)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Count(string(mounts), "chiba-wan") != 1 { // our own
		t.Errorf("the mounts, %v:\n%s", err, mounts)
	}
}

// chibas are the processes that run the program under test, or these tests, apart
// from us and the one that began it.
func chibas(t *testing.T, begun int) (list []string) {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	ours := fmt.Sprintf("/proc/%d/exe", os.Getpid())
	self, _ := os.Readlink(ours)
	for _, link := range links {
		to, err := os.Readlink(link)
		if err == nil && link != ours && link != fmt.Sprintf("/proc/%d/exe", begun) && (to == binary || to == self) {
			list = append(list, link)
		}
	}
	return list
}

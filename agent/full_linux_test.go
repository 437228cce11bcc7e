package agent

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const smallDisk = "CHIBA_TEST_SMALL_DISK"

// On a full disk a rule acts only when that it is about to can be written down. What
// it did is recorded when there is room, once, and the agent has never ended.
func TestAFullDiskLosesNoFiring(t *testing.T) {
	if os.Getenv(smallDisk) == "" {
		onSmallDisk(t)
		return
	}
	dir := t.TempDir()
	if err := syscall.Mount("chiba", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(dir)
		defer w.stop()
		w.desire(&pb.Desired{Revision: 1, Scripts: []*pb.Script{standingScript("hot", hotOn("n1"))}})
		pass(time.Minute)

		fill(t, filepath.Join(dir, "other"))
		var err error
		for err == nil { // what is free in the spool's own file too
			err = w.agent.spool.Update(func(tx *spool.Tx) error {
				tx.Append(time.Now(), &pb.Record{Body: &pb.Record_Firing{Firing: &pb.Firing{Rule: "other", Condition: strings.Repeat("x", 4<<10)}}})
				return nil
			})
		}
		for _, size := range []int{2 << 10, 500, 50} {
			for err = nil; err == nil; {
				err = w.agent.spool.Update(func(tx *spool.Tx) error {
					tx.Append(time.Now(), &pb.Record{Body: &pb.Record_Firing{Firing: &pb.Firing{Rule: "other", Condition: strings.Repeat("x", size)}}})
					return nil
				})
			}
		}
		w.lanes["n1"].set(func() { w.lanes["n1"].values["cpu.temp"] = fleet.Number(95, fleet.Celsius) })
		pass(10 * time.Minute)
		if got := w.logs.String(); !strings.Contains(got, "could not keep what happened") {
			t.Error("nobody is told of it")
		}

		if err := os.Remove(filepath.Join(dir, "other")); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		if got := w.lanes["n1"].did(); got != "(power off)" {
			t.Errorf("the rule did %q", got)
		}
		acted := w.recordsOf(func(r *pb.Record) bool { return r.GetFiring() != nil && r.GetFiring().GetRule() != "other" })
		expect(t, []string{"m1 on n1, cut off, n1: (power off) confirmed"}, acted)
	})
}

// fill writes a file until there is no room left.
func fill(t *testing.T, path string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for chunk := make([]byte, 4<<10); err == nil; {
		_, err = file.Write(chunk)
	}
	if !errors.Is(err, syscall.ENOSPC) || file.Close() != nil {
		t.Fatal(err)
	}
}

// onSmallDisk runs the test that calls it in a mount namespace, where it may mount a
// disk of its own.
func onSmallDisk(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can mount a disk")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), smallDisk+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // whose mounts nobody else sees
	if out, err := cmd.CombinedOutput(); err != nil {
		if strings.Contains(err.Error(), "operation not permitted") {
			t.Skip("no mount namespace can be made here")
		}
		t.Fatalf("%v\n%s", err, out)
	}
}

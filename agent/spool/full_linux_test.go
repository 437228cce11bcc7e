package spool_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
)

const smallDisk = "CHIBA_TEST_SMALL_DISK"

// A real disk that is really full: a small one, in a mount namespace of its own.
func TestAFullDisk(t *testing.T) {
	if os.Getenv(smallDisk) == "" {
		runOnSmallDisk(t)
		return
	}
	dir := t.TempDir()
	if err := syscall.Mount("chiba", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }()
	path := filepath.Join(dir, "spool.db")
	s, err := spool.Open(path, spool.Options{Ballast: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	ballast := ballastOf(t, path)
	if ballast == 0 || ballast > 2<<20/16 {
		t.Fatalf("a ballast of %d bytes on a disk of 2 MiB", ballast)
	}

	// What else is on the disk takes all of it.
	other := filepath.Join(dir, "other")
	fill(t, other)
	kept := 0
	for ; ballastOf(t, path) > 0; kept++ {
		add(t, s, strings.Repeat("x", 4<<10))
	}
	if err = s.Full(); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "disk is full") {
		t.Errorf("new work on a full disk: %v", err)
	}
	for err = nil; err == nil; kept++ {
		err = s.Update(func(tx *spool.Tx) error {
			tx.Append(at, result(strings.Repeat("y", 4<<10)))
			return nil
		})
	}
	kept--
	if !fault.Is(err, fault.Unavailable) || s.Err() != nil {
		t.Fatalf("a write to a full disk: %v, broken: %v", err, s.Err())
	}
	if got := len(told(t, s, 0)); got != kept {
		t.Errorf("%d records of %d are there", got, kept)
	}

	// It goes on by itself when there is room.
	if err = os.Remove(other); err != nil {
		t.Fatal(err)
	}
	add(t, s, "after")
	if err = s.Full(); err != nil {
		t.Errorf("new work when there is room again: %v", err)
	}
	if ballastOf(t, path) == 0 {
		t.Error("there is no ballast for the next time")
	}
	if err = s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := told(t, open(t, path), 0); len(got) != kept+1 || got[kept] != "after" {
		t.Errorf("%d records of %d are there after a restart", len(got), kept+1)
	}
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
	if err = file.Close(); err != nil {
		t.Fatal(err)
	}
}

func runOnSmallDisk(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestAFullDisk$", "-test.v")
	cmd.Env = append(os.Environ(), smallDisk+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // whose mounts nobody else sees
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil && strings.Contains(string(out), "operation not permitted") || strings.Contains(errorOf(err), "operation not permitted") {
		t.Skip("a disk of our own can't be mounted here")
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func errorOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

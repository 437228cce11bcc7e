package wan

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// smallDisk gives the coordinator a disk of 192 MiB for its log, of which it keeps
// 64 free.
func (w *world) smallDisk(name string) {
	w.t.Helper()
	dir := w.path(name, "log")
	if err := errors.Join(os.MkdirAll(dir, 0o700), unix.Mount("chiba-wan-disk", dir, "tmpfs", 0, "mode=0700,size=192m")); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// fill takes what is left of a disk until the returned function is called.
func fill(t *testing.T, dir string) (release func()) {
	t.Helper()
	path := filepath.Join(dir, "somebody-elses")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	chunk := make([]byte, 1<<20)
	for err == nil {
		_, err = f.Write(chunk)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

// A coordinator's disk is full for a while, that of the leader and that of a follower:
// the others go on deciding, and when there is room again nothing is lost. A
// coordinator that gives up, for its service manager to start it again, may.
func TestDiskFull(t *testing.T) {
	long(t)
	for _, role := range []string{"leader", "follower"} {
		t.Run(role, func(t *testing.T) {
			const full = "c2"
			w := newWorld(t, plan{cable: far(), small: full})
			w.must("apply", w.script("fan", fanRule))
			w.ready()
			w.lead(full, role == "leader")
			fans := &fans{w: w, said: map[string]int{}}
			fans.fail(racks...)
			w.fired(fans.said)
			release := fill(t, w.path(full, "log"))
			w.say("the disk of %s, a %s, is full", full, role)
			for range 20 {
				fans.fail(racks...)
				w.pause(2 * time.Second)
			}
			w.must("apply", "--yes", w.script("tag", `(config "all" (asset-tag "full"))`))
			w.say("the others have decided something meanwhile")
			release()
			w.revive(full)
			w.linked(racks...)
			w.fired(fans.said)
			w.must("apply", "--yes", w.script("after", `(config "all" (asset-tag "after"))`))
			w.audited()
		})
	}
}

// lead has a coordinator lead, or not lead, by hanging the others for a while.
func (w *world) lead(name string, shall bool) {
	w.t.Helper()
	w.until("the lead is where it shall be", func() bool {
		leader := w.leader()
		if (leader == name) == shall {
			return true
		}
		w.signal(leader, unix.SIGSTOP)
		w.pause(3 * time.Second)
		w.signal(leader, unix.SIGCONT)
		return false
	})
}

// revive starts a coordinator again if it has given up.
func (w *world) revive(name string) {
	w.t.Helper()
	select {
	case <-w.procs[name].Done():
		w.say("%s had given up: %s", name, w.procs[name].Tail(2))
		w.startCoordinator(name)
	default:
	}
}

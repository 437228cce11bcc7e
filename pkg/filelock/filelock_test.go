package filelock_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/filelock"
)

func TestALockIsHeldOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := filelock.Take(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = filelock.Take(path, 50*time.Millisecond); !errors.Is(err, filelock.ErrHeld) {
		t.Errorf("a second holder: %v, want ErrHeld", err)
	}
	if err = first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := filelock.Take(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Close()
}

// The holder was killed and is not yet quite dead.
func TestAStartWaitsForTheDying(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	dying, err := filelock.Take(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(100*time.Millisecond, func() { _ = dying.Close() })
	defer timer.Stop()
	next, err := filelock.Take(path, time.Minute)
	if err != nil {
		t.Fatalf("the next start: %v", err)
	}
	_ = next.Close()
}

func TestNoPlaceForALock(t *testing.T) {
	if _, err := filelock.Take(filepath.Join(t.TempDir(), "none", "lock"), 0); err == nil || errors.Is(err, filelock.ErrHeld) {
		t.Errorf("got %v, want that it can't be opened", err)
	}
}

package dev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/filelock"
)

const (
	lockOp = "lock the state directory"
	// prepareTakes is more than making a directory's credentials ever takes.
	prepareTakes = time.Minute
)

// lock keeps a second process off the same part of a state directory. It is
// held until unlock is called or the process ends, however it ends.
func lock(dir, part string) (unlock func(), err error) {
	path := lockPath(dir, part)
	file, err := filelock.Take(path, filelock.Patience)
	if errors.Is(err, filelock.ErrHeld) {
		holder, _ := os.ReadFile(path)
		return nil, fault.New(fault.Conflict, "start the "+part,
			fmt.Sprintf("one is running on %s (process %s)", dir, strings.TrimSpace(string(holder)))).
			WithHint("stop it with Ctrl-C, or use another directory: --state DIR")
	}
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, lockOp, err)
	}
	if err := errors.Join(file.Truncate(0), sign(file)); err != nil {
		_ = file.Close()
		return nil, fault.Wrap(fault.Unavailable, lockOp, err)
	}
	return func() { _ = file.Close() }, nil
}

// lockWait waits until nobody holds the lock. It is for short work only.
func lockWait(dir, part string) (unlock func(), err error) {
	file, err := filelock.Take(lockPath(dir, part), prepareTakes)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, lockOp, err)
	}
	return func() { _ = file.Close() }, nil
}

func lockPath(dir, part string) string { return filepath.Join(dir, part+".lock") }

// sign leaves our process number in the file, for whoever finds it locked.
func sign(file *os.File) error {
	_, err := file.WriteAt([]byte(fmt.Sprintln(os.Getpid())), 0)
	return err
}

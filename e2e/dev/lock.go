package dev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

const lockOp = "lock the state directory"

// lock keeps a second process off the same part of a state directory. It is
// held until unlock is called or the process ends, however it ends.
func lock(dir, part string) (unlock func(), err error) {
	file, err := openLock(dir, part)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, refused(file, err, dir, part)
	}
	if err := errors.Join(file.Truncate(0), sign(file)); err != nil {
		_ = file.Close()
		return nil, fault.Wrap(fault.Unavailable, lockOp, err)
	}
	return func() { _ = file.Close() }, nil
}

// lockWait waits until nobody holds the lock. It is for short work only.
func lockWait(dir, part string) (unlock func(), err error) {
	file, err := openLock(dir, part)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		_ = file.Close()
		return nil, fault.Wrap(fault.Unavailable, lockOp, err)
	}
	return func() { _ = file.Close() }, nil
}

func openLock(dir, part string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, part+".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	return file, fault.Wrap(fault.Unavailable, lockOp, err)
}

// sign leaves our process number in the file, for whoever finds it locked.
func sign(file *os.File) error {
	_, err := file.WriteAt([]byte(fmt.Sprintln(os.Getpid())), 0)
	return err
}

func refused(file *os.File, err error, dir, part string) error {
	defer file.Close() //nolint:errcheck // nothing was written
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return fault.Wrap(fault.Unavailable, lockOp, err)
	}
	holder, _ := os.ReadFile(file.Name())
	return fault.New(fault.Conflict, "start the "+part,
		fmt.Sprintf("one is running on %s (process %s)", dir, strings.TrimSpace(string(holder)))).
		WithHint("stop it with Ctrl-C, or use another directory: --state DIR")
}

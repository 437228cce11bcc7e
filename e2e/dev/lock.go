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

// lock keeps a second process off the same part of a state directory. It is
// held until unlock is called or the process ends, however it ends.
func lock(dir, part string) (unlock func(), err error) {
	path := filepath.Join(dir, part+".lock")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "lock the state directory", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(path)
		_ = file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fault.New(fault.Conflict, "start the "+part,
				fmt.Sprintf("one is running on %s (process %s)", dir, strings.TrimSpace(string(holder)))).
				WithHint("stop it with Ctrl-C, or use another directory: --state DIR")
		}
		return nil, fault.Wrap(fault.Unavailable, "lock the state directory", err)
	}
	if err := errors.Join(file.Truncate(0), writeAll(file, fmt.Sprintln(os.Getpid()))); err != nil {
		_ = file.Close()
		return nil, fault.Wrap(fault.Unavailable, "lock the state directory", err)
	}
	return func() { _ = file.Close() }, nil
}

func writeAll(file *os.File, text string) error {
	_, err := file.WriteAt([]byte(text), 0)
	return err
}

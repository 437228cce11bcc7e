package raftnode

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// lockDir holds the directory for this process; the kernel lets go when the
// file is closed or the process dies. Without it a second process would wait in
// silence for the lock of the log's index file.
func lockDir(dir string) (*os.File, error) {
	op := "lock " + dir
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		e := fault.New(fault.Conflict, op, "another coordinator runs on it").WithHint("stop it first, or choose another state directory")
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			e = &fault.Error{Kind: fault.Unavailable, Op: op, Err: err}
		}
		return nil, errors.Join(e, f.Close())
	}
	return f, nil
}

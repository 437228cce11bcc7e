package raftnode

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/filelock"
)

// lockDir holds the directory for this process. Without it a second process
// would wait in silence for the lock of the log's index file.
func lockDir(dir string) (*os.File, error) {
	op := "lock " + dir
	f, err := filelock.Take(filepath.Join(dir, "lock"), filelock.Patience)
	if errors.Is(err, filelock.ErrHeld) {
		return nil, fault.New(fault.Conflict, op, "another coordinator runs on it").WithHint("stop it first, or choose another state directory")
	}
	return f, fault.Wrap(fault.Unavailable, op, err)
}

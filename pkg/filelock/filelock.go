// Package filelock keeps a second process off what one process uses: an advisory
// lock on a file, which the kernel lets go when the holder dies, however it dies.
package filelock

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrHeld says that another process holds the lock.
var ErrHeld = errors.New("another process holds the lock")

// Patience is how long a start waits for a lock. A process that was killed holds
// its locks until the kernel has cleaned up after it, and whoever types kill and
// start in one line is faster than that.
const Patience = 3 * time.Second

const again = 20 * time.Millisecond

// Take locks the file at path, made with mode 0600 if it is not there, and waits
// up to patience for whoever holds it; then the error is ErrHeld. Closing the file
// lets go.
func Take(path string, patience time.Duration) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(patience); ; {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return file, nil
		case !errors.Is(err, unix.EWOULDBLOCK):
			return nil, errors.Join(err, file.Close())
		case !time.Now().Before(deadline):
			return nil, errors.Join(ErrHeld, file.Close())
		}
		<-time.After(again)
	}
}

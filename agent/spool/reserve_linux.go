package spool

import (
	"os"
	"syscall"
)

// freeOn is how many bytes of the disk that file is on are free for us.
func freeOn(file *os.File) (int64, error) {
	var disk syscall.Statfs_t
	if err := syscall.Fstatfs(int(file.Fd()), &disk); err != nil {
		return 0, err
	}
	return int64(disk.Bavail) * disk.Bsize, nil
}

// reserve gives file size bytes of its own.
func reserve(file *os.File, size int64) error {
	return syscall.Fallocate(int(file.Fd()), 0, 0, size)
}

package spool

import (
	"os"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// OpenOn opens a spool on a file that the test can take away.
func OpenOn(tb testing.TB, path string) (*Spool, *os.File) {
	tb.Helper()
	s, err := Open(path, Options{})
	if err != nil {
		tb.Fatal(err)
	}
	if err = s.file.Close(); err != nil {
		tb.Fatal(err)
	}
	var file *os.File
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		NoFreelistSync: true, FreelistType: bolt.FreelistMapType,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			file, err = os.OpenFile(name, flag, mode)
			return file, err
		},
	})
	if err != nil {
		tb.Fatal(err)
	}
	s.file = boltFile{db}
	return s, file
}

// Package boltfile looks at bbolt's files from outside. bbolt maps a file into
// memory and believes what its head says of its length: one that was cut short
// (a disk that ran full while it was copied, a file system after a crash) ends
// the whole process with a bus error, which nothing can catch. So who opens a
// file that something else may have touched asks here first.
package boltfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
)

// The head of a file: two pages, each with a page header and a meta, of which the
// valid one with the higher transaction counts (bbolt v1.5, internal/common:
// page.go, meta.go). Numbers are in the machine's byte order.
const (
	magic      = 0xED0CDAED
	magicAt    = 16
	pageSizeAt = 24
	highAt     = 56 // the first page that was never used: where the file may end
	txAt       = 64
	sumAt      = 72
	metaEnd    = 80
)

type meta struct{ pageSize, high, tx uint64 }

// Whole returns an error if the bbolt file at path is shorter than what it holds.
// No file, an empty one and one of something else are no error: bbolt makes the
// first two, and says that it is not its own.
func Whole(path string) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	first, ok := readMeta(file, 0)
	pageSize := first.pageSize
	if !ok {
		pageSize = uint64(os.Getpagesize())
	}
	newest := first
	if second, ok := readMeta(file, int64(pageSize)); ok && second.tx > newest.tx {
		newest = second
	}
	if have := uint64(info.Size()); newest.high > have/max(newest.pageSize, 1) {
		return fmt.Errorf("%s is cut short: it has %d bytes of %d", path, have, newest.high*newest.pageSize)
	}
	return nil
}

// readMeta reads the meta of the page at an offset; false if it is not valid.
func readMeta(file io.ReaderAt, at int64) (meta, bool) {
	page := make([]byte, metaEnd)
	if _, err := file.ReadAt(page, at); err != nil {
		return meta{}, false
	}
	order := binary.NativeEndian
	sum := fnv.New64a()
	_, _ = sum.Write(page[magicAt:sumAt])
	if order.Uint32(page[magicAt:]) != magic || order.Uint64(page[sumAt:]) != sum.Sum64() {
		return meta{}, false
	}
	return meta{uint64(order.Uint32(page[pageSizeAt:])), order.Uint64(page[highAt:]), order.Uint64(page[txAt:])}, true
}

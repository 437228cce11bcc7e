package spool

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// The shares of the size, in percent, from which a spool takes less. What is above
// is for the results of the work in hand, which are never refused.
const (
	tightFrom = 70 // no telemetry, nothing that was acknowledged
	fullFrom  = 85 // no new work
)

const (
	ballastSuffix = ".ballast"
	// DefaultBallast is how much an agent holds back for the last truth: 16 MiB.
	DefaultBallast = 16 << 20
	// ballastShare of the room on the disk is the most that a ballast takes.
	ballastShare = 16
)

// Tight reports whether what can be told later is not to be kept now: the latest
// state of things, which the next commit below the mark tells.
func (s *Spool) Tight() bool { return s.used() >= tightFrom }

// Full is why new work is to be refused, nil if it is not.
func (s *Spool) Full() error {
	if s.used() >= fullFrom {
		if err := s.Update(func(*Tx) error { return nil }); err != nil { // what is acknowledged goes first
			return err
		}
	}
	s.ballast.load()
	switch used := s.used(); {
	case used >= fullFrom:
		return fault.New(fault.Unavailable, "accept work", fmt.Sprintf("the agent's spool is %d %% full", used)).
			WithHint("its records leave when a coordinator is reached: check the link of the agent")
	case s.ballast.gone():
		return fault.New(fault.Unavailable, "accept work", "the agent's disk is full").
			WithHint("make room on the disk of its state directory")
	}
	return nil
}

// Limit sets how large the spool is meant to become, in bytes; 0: as it was opened.
func (s *Spool) Limit(size int64) { s.limit.Store(size) }

// used is the share of the size that holds something, in percent.
func (s *Spool) used() int64 {
	used, _ := s.file.Usage()
	return used * 100 / cmp.Or(s.limit.Load(), s.opt.MaxSize)
}

// again reports whether a commit that has failed is worth another try now: the disk
// was full, and there was ballast.
func (s *Spool) again(err error) bool { return noRoom(err) && s.ballast.drop() }

// refusal is err for those whose commit has failed. Where the disk has merely no
// room, a later commit may succeed. After anything else nobody knows what is on the
// disk: a second fsync would report the success of the first. The file must be
// opened anew, by the next process.
func (s *Spool) refusal(err error) error {
	if noRoom(err) {
		return fault.Wrap(fault.Unavailable, "write spool", err)
	}
	return s.broken.by(fault.New(fault.Internal, "write spool", err.Error()).
		WithHint("look at the disk of the agent's state directory; the agent reads what is on it when it starts"))
}

// noRoom reports whether a write was refused for want of space. The same from a
// sync, which is no *fs.PathError, says that something was lost.
func noRoom(err error) bool {
	var path *fs.PathError
	return errors.As(err, &path) && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT))
}

// Broken is closed when the file can't be relied on any longer. Nothing can be
// written then; Err says why.
func (s *Spool) Broken() <-chan struct{} { return s.broken.is }

// Err is why the file can't be relied on, nil if it can.
func (s *Spool) Err() error {
	s.broken.mu.Lock()
	defer s.broken.mu.Unlock()
	return s.broken.err
}

type broken struct {
	mu  sync.Mutex
	err error
	is  chan struct{}
}

func (b *broken) by(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
		close(b.is)
	}
	return b.err
}

// ballast is a file that is worth its size alone: on a full disk it is removed, and
// what has been done can still be written down.
type ballast struct {
	path string
	size int64 // 0: there is none

	mu      sync.Mutex
	loaded  bool
	dropped bool // it was there once, and of its size there will be another
}

// load makes the file, unless it is there. There must be room for it twice: it is
// not made of what its own end has freed.
func (b *ballast) load() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.size <= 0 || b.loaded {
		return
	}
	if b.loaded = b.write() == nil; !b.loaded {
		_ = os.Remove(b.path) // half a ballast takes the room of what it is for
	}
}

// write makes the file, of blocks that are really there.
func (b *ballast) write() error {
	file, err := os.OpenFile(b.path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	at, err := file.Stat()
	if err == nil && at.Size() == 0 { // else it is there since an earlier process
		err = b.reserve(file)
	}
	return errors.Join(err, file.Close())
}

func (b *ballast) reserve(file *os.File) error {
	free, err := freeOn(file)
	if err != nil {
		return err
	}
	if !b.dropped {
		b.size = max(1, min(b.size, free/ballastShare))
	}
	if free < 2*b.size {
		return syscall.ENOSPC
	}
	return reserve(file, b.size)
}

// drop removes the file, and reports whether that made room.
func (b *ballast) drop() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	at, err := os.Stat(b.path)
	if err != nil || at.Size() == 0 || os.Remove(b.path) != nil {
		return false
	}
	b.size, b.loaded, b.dropped = at.Size(), false, true
	return true
}

// gone reports whether there should be a ballast and is none.
func (b *ballast) gone() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.size > 0 && !b.loaded
}

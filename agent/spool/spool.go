// Package spool is an agent's memory on disk: what it has to report, what it has
// been asked to do, and how far it got. It is one bbolt file, so that the outcome
// of an action, the note that it is done and the record for the coordinator
// become durable together or not at all.
//
// Records for the coordinators wait in the outbox under (epoch, seq) until they
// are acknowledged; none is ever dropped for want of space. What is acknowledged
// stays a while, as long as there is room, for who asks on the rack. Everything else
// lives in tables of key and value, see [Table].
//
// On a full disk a write is refused, after the ballast has been used up, and later
// ones succeed when there is room. After any other error of the disk the spool is
// broken: nothing is written any more, and the process must open it anew.
//
// A Spool is safe for concurrent use. Commits are grouped: callers that wait for
// the disk at the same time share one sync, and who can wait a little lets others
// join (UpdateSoon). An acknowledgement waits for the next commit.
package spool

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/chiba-mesh/chiba/pkg/boltfile"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/filelock"
)

// DefaultMaxSize is how large a spool is meant to become: 1 GiB.
const DefaultMaxSize = 1 << 30

const (
	// worthCompacting is the size from which a file that is mostly free is
	// written anew when it is opened.
	worthCompacting = 16 << 20
	lockWait        = filelock.Patience
)

// Options of a spool.
type Options struct {
	MaxSize int64         // in bytes; 0 means DefaultMaxSize
	Gather  time.Duration // how long UpdateSoon waits for others; 0: it is Update
	// Mirrored is what Changes and Everything tell; nil: nothing.
	Mirrored func(table Table, key string) bool
	Ballast  int64 // bytes held back by Open for the last truth on a full disk; 0: none

	Now    func() time.Time // default: the clock
	Random io.Reader        // default: crypto/rand; both make the numbers of epochs
}

func (o Options) filled() Options {
	if o.MaxSize <= 0 {
		o.MaxSize = DefaultMaxSize
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	return o
}

// Spool is an open spool file.
type Spool struct {
	file  File
	opt   Options
	limit atomic.Int64  // as Limit was told
	wake  chan struct{} // holds a token if records were appended

	opened Cursor
	talks  atomic.Bool // this process may have sent records, and the file says so
	mirror mirror

	turn  chan struct{} // held by the one who commits
	queue queue

	news    news
	ballast *ballast
	broken  broken

	acking sync.Mutex          // held by the one who raises acked
	acked  atomic.Pointer[ack] // what is acknowledged and still in the file; nil: nothing
}

// Open opens the spool at path, and makes it on first use (0600). A file that
// another process has open is an error.
func Open(path string, opt Options) (*Spool, error) {
	held := &ballast{path: path + ballastSuffix, size: opt.Ballast}
	file, err := OpenFile(path)
	if noRoom(err) && held.drop() {
		file, err = OpenFile(path)
	}
	if err != nil {
		return nil, err
	}
	s, err := on(file, opt, held)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "open spool "+path, errors.Join(err, file.Close()))
	}
	return s, nil
}

// OpenFile opens the bbolt file at path, and makes it on first use.
func OpenFile(path string) (File, error) {
	op := "open spool " + path
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	db, err := openFile(path)
	if errors.Is(err, errDamaged) {
		return nil, fault.New(fault.Garbage, op, err.Error()).
			WithHint("move the file away: the agent begins anew and asks the coordinators what stands; what it had not reported, and passwords that scripts set, are lost")
	}
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	if err = db.Update(makeTables); err != nil {
		return nil, fault.Wrap(fault.Unavailable, op, errors.Join(err, db.Close()))
	}
	return boltFile{db}, nil
}

// On is the spool in a file that is open already and stays the caller's if there is
// an error. It has no ballast.
func On(file File, opt Options) (*Spool, error) { return on(file, opt, &ballast{}) }

func on(file File, opt Options, held *ballast) (*Spool, error) {
	s := &Spool{
		file: file, opt: opt.filled(), wake: make(chan struct{}, 1), turn: make(chan struct{}, 1), mirror: newMirror(), news: news{more: make(chan struct{})},
		ballast: held, broken: broken{is: make(chan struct{})},
	}
	err := file.Update(s.prepare)
	if err != nil && s.again(err) {
		err = file.Update(s.prepare)
	}
	if err != nil {
		return nil, err
	}
	s.ballast.load()
	s.poke() // whatever an earlier process left in the outbox
	return s, nil
}

// errDamaged is a file that is there and can't be read.
var errDamaged = errors.New("it is damaged")

func openFile(path string) (*bolt.DB, error) {
	opt := &bolt.Options{Timeout: lockWait, NoFreelistSync: true, FreelistType: bolt.FreelistMapType}
	if err := boltfile.Whole(path); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	db, err := bolt.Open(path, 0o600, opt)
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, errors.New("it is in use by another process")
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if err != nil || !mostlyFree(db) {
		return db, err
	}
	if err := compact(db, path+".compact"); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if err := errors.Join(db.Close(), os.Rename(path+".compact", path), syncDir(filepath.Dir(path))); err != nil {
		return nil, err
	}
	return bolt.Open(path, 0o600, opt)
}

func mostlyFree(db *bolt.DB) bool {
	used, size := usage(db)
	return size > worthCompacting && used < size/2
}

func compact(db *bolt.DB, path string) error {
	_ = os.Remove(path) // what a crash left of an earlier attempt
	to, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockWait, NoFreelistSync: true})
	if err != nil {
		return err
	}
	return errors.Join(bolt.Compact(to, db, 1<<20), to.Sync(), to.Close())
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// prepare makes the epoch of a new file, and looks what may have been told of it.
func (s *Spool) prepare(store Store) error {
	t := &Tx{store: store}
	switch {
	case t.number(keyEpoch) == 0:
		t.begin(s.newEpoch(0), 1)
	case t.number(keyTalks) != 0 || t.number(keyTold) == 0: // or an earlier version wrote the file
		t.setNumber(keyTold, t.number(keyNext))
		t.setNumber(keyTalks, 0)
	}
	s.opened = t.Cursor()
	s.opened.Next = t.number(keyTold)
	return t.err
}

// newEpoch is a number that no other file has had and that grows from file to
// file: milliseconds of the clock and 20 random bits, above the one before.
func (s *Spool) newEpoch(before uint64) uint64 {
	var b [8]byte
	_, _ = io.ReadFull(s.opt.Random, b[:]) // crypto/rand never fails, see its documentation
	fresh := uint64(s.opt.Now().UnixMilli())<<20 | binary.BigEndian.Uint64(b[:])>>44
	return max(fresh, before+1)
}

// Close waits for a commit under way and closes the file.
func (s *Spool) Close() error { return errors.Join(s.trim(), s.file.Close()) }

// usage is how many bytes of a file hold something, and its size.
func usage(db *bolt.DB) (used, size int64) {
	page := int64(0)
	err := db.View(func(tx *bolt.Tx) error { // in it the file stays mapped where it is
		size, page = tx.Size(), int64(db.Info().PageSize)
		return nil
	})
	if err != nil {
		return 0, 0 // closed
	}
	stats := db.Stats()
	return size - int64(stats.FreePageN+stats.PendingPageN)*page, size
}

// Wait returns when records have been appended since it last returned, or ctx
// has ended. It is for one waiter.
func (s *Spool) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.wake:
		return nil
	}
}

func (s *Spool) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

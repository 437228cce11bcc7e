package raftnode

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metrics"
	"github.com/hashicorp/raft-wal/verifier"
	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/pkg/boltfile"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// segment is the size of one file of the log. The log makes the next one before the
// last is full, so a disk needs room for two.
const segment = 16 << 20

// store is the log on the disk as Raft sees it. It refuses what the disk has no room
// for, before the log meets a full disk: raft-wal 0.4.1 then stays unable to write,
// even when there is room again, until it is opened anew. And it reads back what was
// written: at each checkpoint every member compares the sum of what it reads with that
// of what the leader wrote.
type store struct {
	wal    *wal.WAL
	report verifier.ReportFn
	room   atomic.Int64 // bytes that may yet be written before the disk is measured again
	broken chan error   // the first failure to write; the log is then unfit for use

	mu   sync.RWMutex
	sums *verifier.LogStore
	void *atomic.Bool // what sums reports does not count any more
}

func openStore(dir string, log *logger, report verifier.ReportFn) (*store, error) {
	if err := boltfile.Whole(filepath.Join(dir, "wal-meta.db")); err != nil {
		return nil, err
	}
	w, err := wal.Open(dir, wal.WithLogger(log), wal.WithSegmentSize(segment))
	if err != nil {
		return nil, err
	}
	s := &store{wal: w, report: report, broken: make(chan error, 1)}
	s.room.Store(1 << 62) // until it is measured
	s.renew()
	return s, nil
}

// renew begins with a verifier that has seen nothing yet.
func (s *store) renew() {
	void := &atomic.Bool{}
	s.void = void
	s.sums = verifier.NewLogStore(struct{ raft.LogStore }{s.wal}, isCheck, func(r verifier.VerificationReport) {
		if !void.Load() {
			s.report(r)
		}
	}, &metrics.NoOpCollector{})
}

// isCheck reports whether an entry asks for a check: see Node.check.
func isCheck(l *raft.Log) (bool, error) {
	const most = 64 // bytes; all others need not be looked at
	if l.Type != raft.LogCommand || len(l.Data) > most {
		return false, nil
	}
	var c pb.Command
	err := proto.Unmarshal(l.Data, &c)
	return err == nil && c.GetMark().GetCheck(), nil // who applies it says what is wrong with it
}

// errNoRoom is why nothing is written now.
var errNoRoom = errors.New("there is no room for the log on the disk")

// measured is told how much of the disk is free.
func (s *store) measured(free uint64) {
	s.room.Store(int64(min(free, 1<<62)) - 2*segment)
}

// refuses reports whether nothing can be written now.
func (s *store) refuses() bool { return s.room.Load() < 0 }

// StoreLogs implements raft.LogStore.
func (s *store) StoreLogs(logs []*raft.Log) error {
	size := int64(0)
	for _, l := range logs {
		size += int64(len(l.Data))
	}
	if s.room.Add(-size) < 0 {
		return errNoRoom
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.fatal(s.sums.StoreLogs(logs))
}

// StoreLog implements raft.LogStore.
func (s *store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// DeleteRange implements raft.LogStore. When a new leader replaces the end of the log,
// the sum of what was written is void.
func (s *store) DeleteRange(first, last uint64) error {
	end, err := s.wal.LastIndex()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if last >= end {
		s.void.Store(true)
		_ = s.sums.Close() // ends its goroutine, no more
		s.renew()
	}
	return s.fatal(s.wal.DeleteRange(first, last))
}

func (s *store) fatal(err error) error {
	if err != nil {
		select {
		case s.broken <- err:
		default:
		}
	}
	return err
}

// FirstIndex implements raft.LogStore.
func (s *store) FirstIndex() (uint64, error) { return s.wal.FirstIndex() }

// LastIndex implements raft.LogStore.
func (s *store) LastIndex() (uint64, error) { return s.wal.LastIndex() }

// GetLog implements raft.LogStore.
func (s *store) GetLog(index uint64, l *raft.Log) error { return s.wal.GetLog(index, l) }

// IsMonotonic implements raft.MonotonicLogStore.
func (s *store) IsMonotonic() bool { return s.wal.IsMonotonic() }

// Close closes the files.
func (s *store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.void.Store(true)
	return errors.Join(s.sums.Close(), s.wal.Close())
}

// checked is told what came of a check of the log.
func (n *Node) checked(r verifier.VerificationReport) {
	if r.Err == nil || errors.Is(r.Err, verifier.ErrRangeMismatch) || errors.Is(r.Err, raft.ErrLogNotFound) {
		return // or it has let go of a part meanwhile
	}
	e := fault.New(fault.Garbage, "", fmt.Sprintf("entries %d to %d of the log of coordinator %s are damaged", r.Range.Start, r.Range.End-1, n.conf.Name)).
		WithHint(n.damagedHint())
	if n.damage.CompareAndSwap(nil, e) {
		n.conf.Log.Error("the log on the disk is damaged", "first", r.Range.Start, "last", r.Range.End-1, obs.Err, r.Err, "next", fault.HintOf(e))
	}
}

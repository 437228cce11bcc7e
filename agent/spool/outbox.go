package spool

import (
	"encoding/binary"
	"fmt"
	"iter"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	keyEpoch = "epoch"
	keyFirst = "first"
	keyNext  = "next"
	keyTold  = "told"       // no earlier process can have sent this record, or a later one
	keyTalks = "talks"      // not 0: the last process may have sent whatever it has written
	keyTail  = "tail"       // the first record of the epoch that is in the file
	keyKept  = "tail bytes" // of the records from the tail to the first
)

// What is acknowledged stays in the file as long as there is room, up to this much:
// people on the rack read what was done there.
const (
	maxTail      = 4096
	maxTailBytes = 2 << 20
)

// Cursor says where the outbox stands.
type Cursor struct {
	Epoch uint64
	First uint64 // the first record that is not acknowledged
	Next  uint64 // the seq of the record to be appended next
}

// Append adds a record to the outbox. It sets the record's seq and time, and makes
// it as small as a coordinator takes it.
func (t *Tx) Append(at time.Time, r *pb.Record) {
	wire.Fit(r)
	r.Seq, r.AtUnixMs = t.number(keyNext), at.UnixMilli()
	t.PutMessage(outbox, place(t.number(keyEpoch), r.GetSeq()), r)
	t.setNumber(keyNext, r.GetSeq()+1)
	t.appended = true
}

// Cursor is where the outbox stands in this transaction.
func (t *Tx) Cursor() Cursor {
	c := Cursor{Epoch: t.number(keyEpoch), First: t.number(keyFirst), Next: t.number(keyNext)}
	if t.acked != nil && t.acked.epoch == c.Epoch {
		c.First = max(c.First, t.acked.next)
	}
	return c
}

// Cursor is where the outbox stands.
func (s *Spool) Cursor() (c Cursor, err error) {
	err = s.View(func(t *Tx) error {
		c = t.Cursor()
		return nil
	})
	return c, err
}

// Opened is what was told of the outbox before this process: of the epoch, no record
// from Next on can have been sent. What an earlier process wrote without having
// reached anybody does not count.
func (s *Spool) Opened() Cursor { return s.opened }

// Talks notes that from now on records are sent. It is to be called before the first
// is; later calls cost nothing.
func (s *Spool) Talks() error {
	if s.talks.Load() {
		return nil
	}
	err := s.Update(func(t *Tx) error {
		t.setNumber(keyTalks, 1)
		return nil
	})
	s.talks.Store(err == nil)
	return err
}

// Batch is the records from the seq from on, in order: as many as fit into size
// bytes, and one if the first is larger. What is acknowledged is in no batch.
func (s *Spool) Batch(from uint64, size int) (*pb.RecordBatch, error) {
	b := &pb.RecordBatch{}
	err := s.View(func(t *Tx) error {
		b.SpoolEpoch = t.number(keyEpoch)
		if from < t.Cursor().First {
			return nil
		}
		for seq := from; ; seq++ {
			raw := t.Get(outbox, place(b.GetSpoolEpoch(), seq))
			if size -= len(raw) + 8; raw == nil || size < 0 && len(b.Records) > 0 {
				return nil
			}
			r := &pb.Record{}
			if err := proto.Unmarshal(raw, r); err != nil {
				return fault.Wrap(fault.Garbage, "read spool", err)
			}
			b.Records = append(b.Records, r)
		}
	})
	return b, err
}

// maxAcked bounds how many acknowledged records stay in the file.
const maxAcked = 1024

// ack says that the records of epoch below next are recorded.
type ack struct{ epoch, next uint64 }

// Ack forgets the records of epoch below next: they are recorded. An ack of an
// earlier epoch is ignored. They leave the file with a later commit: if that is
// never made, the coordinator tells the next process once more what it has.
func (s *Spool) Ack(epoch, next uint64) error {
	s.acking.Lock()
	defer s.acking.Unlock()
	waiting := uint64(0)
	err := s.View(func(t *Tx) error {
		c := t.Cursor()
		switch {
		case epoch != c.Epoch || next <= c.First:
			return nil
		case next > c.Next:
			return fault.New(fault.Garbage, "acknowledge records", fmt.Sprintf("record %d is acknowledged, the next to come is %d", next-1, c.Next))
		}
		s.acked.Store(&ack{epoch, next})
		waiting = next - t.number(keyFirst)
		return nil
	})
	if err == nil && waiting > maxAcked {
		err = s.trim()
	}
	return err
}

// trim takes what is acknowledged out of the file now.
func (s *Spool) trim() error {
	if s.acked.Load() == nil {
		return nil
	}
	return s.Update(func(*Tx) error { return nil }) // as every commit does
}

// forget is what a commit begins with: it moves on to what is not acknowledged, and
// takes the oldest of what is out of the file.
func (t *Tx) forget(tight bool) error {
	c := t.Cursor()
	first, tail, kept := t.number(keyFirst), t.tail(), t.number(keyKept)
	if first == c.First && (!tight || tail == first) {
		return nil
	}
	for seq := first; seq < c.First; seq++ {
		kept += uint64(len(t.Get(outbox, place(c.Epoch, seq))))
	}
	for ; tail < c.First && (tight || c.First-tail > maxTail || kept > maxTailBytes); tail++ {
		key := place(c.Epoch, tail)
		kept -= uint64(len(t.Get(outbox, key)))
		t.Delete(outbox, key)
	}
	t.setNumber(keyFirst, c.First)
	t.setNumber(keyTail, tail)
	t.setNumber(keyKept, kept)
	return t.err
}

// tail is the first record of the epoch that is in the file.
func (t *Tx) tail() uint64 {
	if tail := t.number(keyTail); tail != 0 {
		return tail
	}
	return t.number(keyFirst) // an earlier version kept none
}

// Records are the records of the epoch from the seq from on that are in the file,
// acknowledged or not, in order. They may be read as long as the transaction lasts.
func (t *Tx) Records(from uint64) iter.Seq2[*pb.Record, error] {
	return func(yield func(*pb.Record, error) bool) {
		epoch, next := t.number(keyEpoch), t.number(keyNext)
		for seq := max(from, t.tail()); seq < next; seq++ {
			r := &pb.Record{}
			err := proto.Unmarshal(t.Get(outbox, place(epoch, seq)), r)
			if !yield(r, fault.Wrap(fault.Garbage, "read spool", err)) || err != nil {
				return
			}
		}
	}
}

// Appended is closed when the next records are appended.
func (s *Spool) Appended() <-chan struct{} {
	s.news.mu.Lock()
	defer s.news.mu.Unlock()
	return s.news.more
}

// news tells any number of readers that records were appended.
type news struct {
	mu   sync.Mutex
	more chan struct{} // closed and renewed
}

func (n *news) tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.more)
	n.more = make(chan struct{})
}

// Restart begins a new epoch, above the last one and above the given one, which
// the coordinators know: the clock may be behind. It is for a spool whose file turned out to be an
// old copy: a coordinator has records of this epoch that the file never had.
// What is not acknowledged moves along; a record that was already recorded under
// the old epoch is then recorded twice, which is better than not at all.
func (s *Spool) Restart(above uint64) error {
	err := s.Update(func(t *Tx) error {
		c := t.Cursor()
		epoch, seq := s.newEpoch(max(c.Epoch, above)), uint64(0)
		for old := t.tail(); old < c.First; old++ {
			t.Delete(outbox, place(c.Epoch, old))
		}
		for old := c.First; old < c.Next; old++ {
			r := &pb.Record{}
			if err := proto.Unmarshal(t.Get(outbox, place(c.Epoch, old)), r); err != nil {
				return fault.Wrap(fault.Garbage, "read spool", err)
			}
			t.Delete(outbox, place(c.Epoch, old))
			seq++
			r.Seq = seq
			t.PutMessage(outbox, place(epoch, seq), r)
		}
		t.begin(epoch, seq+1)
		return nil
	})
	s.talks.Store(false)
	s.poke()
	s.news.tell()
	return err
}

// begin begins an epoch of which nothing is told.
func (t *Tx) begin(epoch, next uint64) {
	t.setNumber(keyEpoch, epoch)
	t.setNumber(keyFirst, 1)
	t.setNumber(keyTail, 1)
	t.setNumber(keyKept, 0)
	t.setNumber(keyNext, next)
	t.setNumber(keyTold, 1)
	t.setNumber(keyTalks, 0)
}

// place is the key of a record: big-endian, so that the keys are in order.
func place(epoch, seq uint64) string {
	b := binary.BigEndian.AppendUint64(nil, epoch)
	return string(binary.BigEndian.AppendUint64(b, seq))
}

func (t *Tx) number(key string) uint64 {
	b := t.Get(meta, key)
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

func (t *Tx) setNumber(key string, n uint64) {
	t.Put(meta, key, binary.BigEndian.AppendUint64(nil, n))
}

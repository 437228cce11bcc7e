package spool

import (
	"bytes"
	"slices"
	"sync"
)

// A mirror that is further behind gets everything anew.
const (
	maxChanges     = 4096
	maxChangeBytes = 8 << 20
)

// Change is a key with its new value; nil: it is gone.
type Change struct {
	Table Table
	Key   string
	Value []byte
}

// mirror holds the last changes of what is mirrored, in the order of their commits.
type mirror struct {
	mu      *sync.Mutex
	last    uint64 // the number of the last change; what was there at Open is the first
	changes []Change
	bytes   int
	changed chan struct{} // closed at the next change
}

func newMirror() mirror {
	return mirror{mu: new(sync.Mutex), last: 1, changed: make(chan struct{})}
}

// note keeps a change for those who mirror it. A transaction that is run again
// begins with none.
func (t *Tx) note(table Table, key string, value []byte) {
	if t.mirrored != nil && t.mirrored(table, key) {
		t.changes = append(t.changes, Change{table, key, bytes.Clone(value)})
	}
}

func (m *mirror) add(changes []Change) {
	if len(changes) == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range changes {
		m.bytes += len(c.Key) + len(c.Value)
	}
	m.last += uint64(len(changes))
	m.changes = append(m.changes, changes...)
	over := 0
	for ; len(m.changes)-over > maxChanges || m.bytes > maxChangeBytes; over++ {
		m.bytes -= len(m.changes[over].Key) + len(m.changes[over].Value)
	}
	m.changes = m.changes[over:]
	close(m.changed)
	m.changed = make(chan struct{})
}

// Version is the number of the last change, counted since Open, of what is mirrored:
// 1 is what was there then, so that who has nothing of this life lacks it. The channel
// is closed at the next one.
func (s *Spool) Version() (last uint64, next <-chan struct{}) {
	s.mirror.mu.Lock()
	defer s.mirror.mu.Unlock()
	return s.mirror.last, s.mirror.changed
}

// Changes are those after the given one, in order, and the number of the last of
// them. They are not ok if some are not held any longer.
func (s *Spool) Changes(after uint64) (changes []Change, last uint64, ok bool) {
	m := &s.mirror
	m.mu.Lock()
	defer m.mu.Unlock()
	behind := m.last - after
	if after > m.last || behind > uint64(len(m.changes)) {
		return nil, m.last, false
	}
	return slices.Clone(m.changes[uint64(len(m.changes))-behind:]), m.last, true
}

// Everything that is mirrored, with the number of a change that is in it; later ones
// may be too.
func (s *Spool) Everything() (rows []Change, last uint64, err error) {
	last, _ = s.Version()
	err = s.View(func(tx *Tx) error {
		for _, table := range tables() {
			for key, value := range tx.All(table, "") {
				if s.opt.Mirrored != nil && s.opt.Mirrored(table, key) {
					rows = append(rows, Change{table, key, append([]byte{}, value...)})
				}
			}
		}
		return nil
	})
	return rows, last, err
}

// Take puts changes of another spool in force here. With all, what is not among
// them is gone; keep says what of them is not to be touched.
func (s *Spool) Take(changes []Change, all bool, skip func(tx *Tx, c Change) bool) error {
	return s.Update(func(tx *Tx) error {
		if all {
			var gone []Change
			for _, table := range tables() {
				for key := range tx.All(table, "") {
					if s.opt.Mirrored(table, key) {
						gone = append(gone, Change{Table: table, Key: key})
					}
				}
			}
			for _, c := range gone {
				if !skip(tx, c) {
					tx.Delete(c.Table, c.Key)
				}
			}
		}
		for _, c := range changes {
			switch {
			case !s.opt.Mirrored(c.Table, c.Key), skip(tx, c):
			case c.Value == nil:
				tx.Delete(c.Table, c.Key)
			default:
				tx.Put(c.Table, c.Key, c.Value)
			}
		}
		return nil
	})
}

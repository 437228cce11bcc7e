package sim

import (
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"
	"syscall"

	"github.com/chiba-mesh/chiba/agent/spool"
)

// outboxTable is the spool's table of records; its keys are epoch and seq.
const outboxTable spool.Table = "outbox"

// kept is how many transactions a disk can be put back by.
const kept = 64

var errFull = &fs.PathError{Op: "write", Path: "disk", Err: syscall.ENOSPC}

// disk is an agent's disk: a spool.File in memory that can lose its power, be full,
// be put back to what it was, and be new. A transaction is whole or not there, which
// bbolt's copy on write promises; a disk that lies about a sync is one that is put
// back by the last transactions.
type disk struct {
	tables map[spool.Table]map[string][]byte
	used   int64
	undo   []change   // of the transaction under way
	past   [][]change // what would undo the last transactions, oldest first
	keeps  int        // how many of past

	full   bool // what grows is refused
	commit func(puts []change)
	// boundary is called before and after a transaction is on the disk; it does not
	// return if the power goes.
	boundary func()
	drop     func(spool.Table) bool // of a mutant: what is put there is lost
}

// change is what a key was.
type change struct {
	table  spool.Table
	key    string
	before []byte // nil: it was not there
	now    []byte // nil: it was deleted
}

func newDisk() *disk {
	return &disk{tables: map[spool.Table]map[string][]byte{}, keeps: kept, boundary: func() {}, commit: func([]change) {}}
}

// Update implements spool.File.
func (d *disk) Update(fn func(spool.Store) error) error {
	d.undo = d.undo[:0]
	before := d.used
	if err := fn(d); err != nil {
		d.revert(d.undo)
		return err
	}
	if len(d.undo) == 0 {
		return nil
	}
	if d.full && d.used > before {
		d.revert(d.undo)
		return errFull
	}
	done := slices.Clone(d.undo)
	d.undo = d.undo[:0]
	d.cut(done)
	if d.keeps > 0 {
		if len(d.past) == d.keeps {
			d.past = d.past[1:]
		}
		d.past = append(d.past, done)
	}
	d.commit(done)
	d.boundary()
	return nil
}

// cut asks for the power before a transaction is on the disk.
func (d *disk) cut(done []change) {
	ok := false
	defer func() {
		if !ok {
			d.revert(done)
		}
	}()
	d.boundary()
	ok = true
}

func (d *disk) revert(changes []change) {
	for _, c := range slices.Backward(changes) {
		d.set(c.table, c.key, c.before)
	}
}

// back puts the disk back by its last n transactions.
func (d *disk) back(n int) (by int) {
	for ; by < n && len(d.past) > 0; by++ {
		last := len(d.past) - 1
		d.revert(d.past[last])
		d.past = d.past[:last]
	}
	return by
}

// renew makes the disk new.
func (d *disk) renew() {
	clear(d.tables)
	d.used, d.past, d.undo = 0, nil, nil
}

// View implements spool.File.
func (d *disk) View(fn func(spool.Store) error) error { return fn(d) }

// Usage implements spool.File.
func (d *disk) Usage() (used, size int64) { return d.used, d.used }

// Close implements spool.File.
func (d *disk) Close() error { return nil }

// Get implements spool.Store.
func (d *disk) Get(table spool.Table, key string) []byte { return d.tables[table][key] }

// Put implements spool.Store.
func (d *disk) Put(table spool.Table, key string, value []byte) error {
	if d.drop != nil && d.drop(table) {
		return nil
	}
	d.undo = append(d.undo, change{table, key, d.tables[table][key], value})
	d.set(table, key, value)
	return nil
}

// Delete implements spool.Store.
func (d *disk) Delete(table spool.Table, key string) error {
	before, ok := d.tables[table][key]
	if ok {
		d.undo = append(d.undo, change{table, key, before, nil})
		d.set(table, key, nil)
	}
	return nil
}

func (d *disk) set(table spool.Table, key string, value []byte) {
	t := d.tables[table]
	if old, ok := t[key]; ok {
		d.used -= int64(len(key) + len(old))
	}
	if value == nil {
		delete(t, key)
		return
	}
	if t == nil {
		t = map[string][]byte{}
		d.tables[table] = t
	}
	t[key] = value
	d.used += int64(len(key) + len(value))
}

// All implements spool.Store.
func (d *disk) All(table spool.Table, prefix string) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		if len(d.tables[table]) == 0 {
			return
		}
		for _, key := range slices.Sorted(maps.Keys(d.tables[table])) {
			if strings.HasPrefix(key, prefix) && !yield(key, d.tables[table][key]) {
				return
			}
		}
	}
}

package spool

import (
	"encoding/binary"
	"encoding/json"
	"iter"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// Table is a set of keys and values.
type Table string

// The tables.
const (
	Scripts  Table = "scripts"  // standing scripts: name -> pb.Script, secrets sealed
	Runs     Table = "runs"     // accepted and not finished: run -> pb.Run; a run is its id and its start
	Done     Table = "done"     // steps with a result: run, node, unit -> how it went
	Choices  Table = "choices"  // which units of a run concern which node: run -> JSON
	Finished Table = "finished" // runs that are over: run -> when
	Intents  Table = "intents"  // actions begun and not ended: see agent's journal
	Rules    Table = "rules"    // states of rules: script, rule, node -> core.State as JSON
	Heard    Table = "heard"    // events that rules have seen: node -> core.Marks as JSON
	Nodes    Table = "nodes"    // the summary last reported: name -> pb.Node
	Sessions Table = "sessions" // the BMC session that is ours: pin -> URI
	Secrets  Table = "secrets"  // logins, sealed to the agent's own key: pin -> JSON
	Digests  Table = "digests"  // of passwords that were set: pin, user -> digest
	// Inventories are what nodes are made of: name -> inventory.Doc, gzipped JSON.
	Inventories Table = "inventories"
	Notes       Table = "notes"  // single facts: revision, policy of authors, when the link was cut
	Floors      Table = "floors" // the newest order obeyed: script or run, name -> version, hash
	// Takeovers are the records of BMCs: first pin -> takeover.Record as JSON.
	Takeovers Table = "takeovers"
	// Subscribed are the BMCs on which an event subscription of ours may stand:
	// pin -> since when.
	Subscribed Table = "subscribed"
	// Here are the last orders that people gave on the rack: script -> pb.Record.
	Here Table = "here"
	// Stopped are the runs that people have stopped on the rack: script, version.
	Stopped Table = "stopped"
	// Asked is what other racks have had done here: intent.Key -> pb.Asked.
	Asked Table = "asked"

	outbox Table = "outbox" // epoch, seq -> pb.Record
	meta   Table = "meta"
)

func tables() []Table {
	return []Table{Scripts, Runs, Done, Choices, Finished, Intents, Rules, Heard, Nodes, Sessions, Secrets, Digests, Inventories, Notes, Subscribed, Floors, Takeovers, Here, Stopped, Asked, outbox, meta}
}

// Key joins parts so that no two lists of parts have the same key, and the key
// of a list begins with the key of each of its beginnings.
func Key(parts ...string) string {
	var b []byte
	for _, p := range parts {
		b = binary.AppendUvarint(b, uint64(len(p)))
		b = append(b, p...)
	}
	return string(b)
}

// Tx is a transaction. Its writing methods remember the first error, which then
// ends the transaction.
type Tx struct {
	store    Store
	acked    *ack // nil: nothing that is not in the file
	appended bool
	err      error

	mirrored func(Table, string) bool // nil: nothing is
	changes  []Change
}

func (t *Tx) keep(err error) {
	if t.err == nil {
		t.err = err
	}
}

// Get is the value of key, nil if there is none. It is valid until the
// transaction ends.
func (t *Tx) Get(table Table, key string) []byte { return t.store.Get(table, key) }

// Has reports whether key has a value.
func (t *Tx) Has(table Table, key string) bool { return t.Get(table, key) != nil }

// Put sets the value of key.
func (t *Tx) Put(table Table, key string, value []byte) {
	if value == nil {
		value = []byte{}
	}
	t.keep(t.store.Put(table, key, value))
	t.note(table, key, value)
}

// Delete removes key, if it is there.
func (t *Tx) Delete(table Table, key string) {
	t.keep(t.store.Delete(table, key))
	t.note(table, key, nil)
}

// DeleteAll removes every key that begins with prefix.
func (t *Tx) DeleteAll(table Table, prefix string) {
	var keys []string
	for key := range t.All(table, prefix) {
		keys = append(keys, key)
	}
	for _, key := range keys {
		t.Delete(table, key)
	}
}

// All is every key that begins with prefix, in order, with its value, which is
// valid until the transaction ends. The table must not be changed meanwhile.
func (t *Tx) All(table Table, prefix string) iter.Seq2[string, []byte] {
	return t.store.All(table, prefix)
}

// PutMessage sets the value of key to m.
func (t *Tx) PutMessage(table Table, key string, m proto.Message) {
	b, err := proto.Marshal(m)
	t.keep(err)
	t.Put(table, key, b)
}

// PutJSON sets the value of key to v as JSON.
func (t *Tx) PutJSON(table Table, key string, v any) {
	b, err := json.Marshal(v)
	t.keep(err)
	t.Put(table, key, b)
}

// PutTime sets the value of key to a time, in milliseconds.
func (t *Tx) PutTime(table Table, key string, at time.Time) {
	t.Put(table, key, binary.BigEndian.AppendUint64(nil, uint64(at.UnixMilli())))
}

// Time is the value of key as a time; zero if there is none.
func (t *Tx) Time(table Table, key string) time.Time {
	b := t.Get(table, key)
	if len(b) != 8 {
		return time.Time{}
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(b)))
}

// Update runs fn in a transaction and returns when it is durable. It shares the
// transaction, and the sync, with other callers; each sees what those before it
// wrote. If fn returns an error nothing of it is kept. fn may be run more than
// once and must have no effect but on its transaction.
func (s *Spool) Update(fn func(*Tx) error) error {
	c := &call{fn: fn, done: make(chan error, 1)}
	s.queue.add(c)
	return s.carry(c)
}

// UpdateSoon is Update for what many do at about the same time, each for a node of
// its own: it lets Options.Gather pass, so that they share a commit.
func (s *Spool) UpdateSoon(fn func(*Tx) error) error {
	if s.opt.Gather <= 0 {
		return s.Update(fn)
	}
	c := &call{fn: fn, done: make(chan error, 1)}
	s.queue.add(c)
	timer := time.NewTimer(s.opt.Gather)
	defer timer.Stop()
	select {
	case err := <-c.done:
		return err
	case <-timer.C:
	}
	return s.carry(c)
}

// carry returns when c, which is queued, is durable: it commits what is queued when
// it is its turn, if nobody has done so before.
func (s *Spool) carry(c *call) error {
	select {
	case err := <-c.done:
		return err
	case s.turn <- struct{}{}:
	}
	s.commit(s.queue.take())
	<-s.turn
	return <-c.done
}

// View runs fn in a transaction that can only read.
func (s *Spool) View(fn func(*Tx) error) error {
	acked := s.acked.Load() // before the transaction begins: a commit takes it away when it has ended
	return s.file.View(func(store Store) error { return fn(&Tx{store: store, acked: acked}) })
}

type call struct {
	fn   func(*Tx) error
	done chan error
}

type queue struct {
	mu    sync.Mutex
	calls []*call
}

func (q *queue) add(c *call) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.calls = append(q.calls, c)
}

func (q *queue) take() []*call {
	q.mu.Lock()
	defer q.mu.Unlock()
	calls := q.calls
	q.calls = nil
	return calls
}

// commit runs calls in one transaction. A call that fails is answered and left
// out, and the others are run again without it.
func (s *Spool) commit(calls []*call) {
	tight := s.Tight()
	for len(calls) > 0 {
		if err := s.Err(); err != nil {
			answer(calls, err)
			return
		}
		failed, appended := -1, false
		var changes []Change
		acked := s.acked.Load()
		err := s.file.Update(func(store Store) error {
			if err := (&Tx{store: store, acked: acked}).forget(tight); err != nil {
				return err
			}
			for i, c := range calls {
				t := &Tx{store: store, mirrored: s.opt.Mirrored}
				if err := t.run(c.fn); err != nil {
					failed = i
					return err
				}
				appended, changes = appended || t.appended, append(changes, t.changes...)
			}
			return nil
		})
		if failed >= 0 {
			calls[failed].done <- err
			calls = append(calls[:failed:failed], calls[failed+1:]...)
			continue
		}
		if err != nil {
			if s.again(err) {
				continue
			}
			answer(calls, s.refusal(err))
			return
		}
		s.acked.CompareAndSwap(acked, nil)
		s.mirror.add(changes)
		if appended {
			s.poke()
			s.news.tell()
		}
		answer(calls, nil)
		return
	}
}

func answer(calls []*call, err error) {
	for _, c := range calls {
		c.done <- err
	}
}

func (t *Tx) run(fn func(*Tx) error) error {
	if err := fn(t); err != nil {
		return err
	}
	return fault.Wrap(fault.Unavailable, "write spool", t.err)
}

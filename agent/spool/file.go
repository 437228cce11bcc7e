package spool

import (
	"iter"

	bolt "go.etcd.io/bbolt"
)

// File is what a Spool is kept in: an ordered set of tables with transactions, of
// which one writes at a time. A transaction is on the disk, whole, when Update
// returns nil, and not at all when its function has returned an error. Neither is it
// after an *fs.PathError that says that there is no room. After any other error nobody
// knows which of the two it is. A bbolt file is one.
type File interface {
	Update(fn func(Store) error) error
	View(fn func(Store) error) error
	// Usage is how many bytes hold something, and the size of the file.
	Usage() (used, size int64)
	Close() error
}

// Store is the tables as one transaction sees them.
type Store interface {
	// Get is the value of key, nil if there is none. It is valid until the
	// transaction ends.
	Get(table Table, key string) []byte
	Put(table Table, key string, value []byte) error
	Delete(table Table, key string) error
	// All is every key that begins with prefix, in the order of its bytes.
	All(table Table, prefix string) iter.Seq2[string, []byte]
}

// boltFile is a File of bbolt.
type boltFile struct{ db *bolt.DB }

func (f boltFile) Update(fn func(Store) error) error {
	return f.db.Update(func(tx *bolt.Tx) error { return fn(boltStore{tx}) })
}

func (f boltFile) View(fn func(Store) error) error {
	return f.db.View(func(tx *bolt.Tx) error { return fn(boltStore{tx}) })
}

func (f boltFile) Usage() (used, size int64) { return usage(f.db) }

func (f boltFile) Close() error { return f.db.Close() }

// boltStore is a transaction of bbolt. The bucket of each table was made when the
// file was opened.
type boltStore struct{ tx *bolt.Tx }

func (s boltStore) bucket(table Table) *bolt.Bucket { return s.tx.Bucket([]byte(table)) }

func (s boltStore) Get(table Table, key string) []byte { return s.bucket(table).Get([]byte(key)) }

func (s boltStore) Put(table Table, key string, value []byte) error {
	return s.bucket(table).Put([]byte(key), value)
}

func (s boltStore) Delete(table Table, key string) error { return s.bucket(table).Delete([]byte(key)) }

func (s boltStore) All(table Table, prefix string) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		c := s.bucket(table).Cursor()
		for k, v := c.Seek([]byte(prefix)); k != nil && len(k) >= len(prefix) && string(k[:len(prefix)]) == prefix; k, v = c.Next() {
			if !yield(string(k), v) {
				return
			}
		}
	}
}

// makeTables makes the buckets of a new file, and of a table that is new.
func makeTables(tx *bolt.Tx) error {
	for _, t := range tables() {
		if _, err := tx.CreateBucketIfNotExists([]byte(t)); err != nil {
			return err
		}
	}
	return nil
}

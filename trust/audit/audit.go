// Package audit keeps who did what so that nobody can change it afterwards: records
// are the leaves of a Merkle tree (RFC 6962, golang.org/x/mod/sumdb/tlog), whose
// size and hash a coordinator signs as a checkpoint. Whoever has kept a checkpoint
// sees when a later log is not a continuation of it.
//
// The log is pure: it is a part of the replicated state. A record costs its JSON,
// about 200 bytes, and 64 bytes of hashes.
package audit

import (
	"encoding/json"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// maxText is how much of a text a record keeps.
const maxText = 512

// Record is one thing that was done.
type Record struct {
	At      int64  `json:"at"` // ms since 1970, the leader's clock
	By      string `json:"by"` // the role and name of a certificate: "operator ada"
	What    string `json:"what"`
	Subject string `json:"subject,omitempty"`
	Digest  string `json:"digest,omitempty"` // hex SHA-256 of what it was done with
	Detail  string `json:"detail,omitempty"`
}

// Time is when it was done.
func (r Record) Time() time.Time { return time.UnixMilli(r.At).UTC() }

// Decode reads a leaf.
func Decode(leaf []byte) (r Record, err error) {
	return r, fault.Wrap(fault.Garbage, "read audit record", json.Unmarshal(leaf, &r))
}

// Log is a log in memory. The zero value is empty. It is not safe for concurrent
// use; leaves are shared and nobody changes them.
type Log struct {
	leaves [][]byte
	hashes []tlog.Hash // in the order of tlog's storage
}

// Append adds a record.
func (l *Log) Append(r Record) error {
	for _, text := range []*string{&r.By, &r.What, &r.Subject, &r.Detail} {
		if len(*text) > maxText {
			*text = (*text)[:maxText]
		}
	}
	leaf, err := json.Marshal(r)
	if err != nil {
		return fault.Wrap(fault.Internal, "append to the audit log", err)
	}
	return l.Add(leaf)
}

// Add adds a leaf as it is.
func (l *Log) Add(leaf []byte) error {
	fresh, err := tlog.StoredHashes(l.Size(), leaf, l)
	if err != nil {
		return fault.Wrap(fault.Internal, "append to the audit log", err)
	}
	l.leaves, l.hashes = append(l.leaves, leaf), append(l.hashes, fresh...)
	return nil
}

// ReadHashes implements tlog.HashReader.
func (l *Log) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		if at < 0 || at >= int64(len(l.hashes)) {
			return nil, fmt.Errorf("there is no hash %d", at)
		}
		out[i] = l.hashes[at]
	}
	return out, nil
}

// Size is how many records there are.
func (l *Log) Size() int64 { return int64(len(l.leaves)) }

// Leaves are at most most leaves from number from on.
func (l *Log) Leaves(from, most int64) [][]byte {
	from = min(max(from, 0), l.Size())
	return l.leaves[from:min(from+most, l.Size()):min(from+most, l.Size())]
}

// Head is the tree of the first size records.
func (l *Log) Head(size int64) (Tree, error) {
	if size < 0 || size > l.Size() {
		return Tree{}, fault.New(fault.NotFound, "read the audit log", fmt.Sprintf("it has %d records, not %d", l.Size(), size))
	}
	hash, err := tlog.TreeHash(size, l)
	return Tree{Size: size, Hash: hash}, fault.Wrap(fault.Internal, "read the audit log", err)
}

// Prove proves that the whole log goes on from its first size records.
func (l *Log) Prove(size int64) ([][]byte, error) {
	if size <= 0 || size > l.Size() { // there is nothing to be proven, or it can't be
		return nil, nil
	}
	proof, err := tlog.ProveTree(l.Size(), size, l)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "prove the audit log", err)
	}
	out := make([][]byte, len(proof))
	for i := range proof {
		out[i] = proof[i][:]
	}
	return out, nil
}

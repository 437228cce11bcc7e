// Package signtest has authors for tests: a root, a policy, and orders that they
// sign.
package signtest

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/scl/compile"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust/sign"
)

// Authors are a root and two authors, ada and bob.
type Authors struct {
	Root     sign.Keys
	RootKey  *sign.Key
	Ada, Bob *sign.Key
	version  uint64
}

// New makes authors; their keys come into dir.
func New(dir string) (*Authors, error) {
	a := &Authors{version: 1}
	var errs [3]error
	a.RootKey, errs[0] = sign.EnsureKey(filepath.Join(dir, "root.key"))
	a.Ada, errs[1] = sign.EnsureKey(filepath.Join(dir, "ada.key"))
	a.Bob, errs[2] = sign.EnsureKey(filepath.Join(dir, "bob.key"))
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	a.Root = sign.Keys{Threshold: 1, Authors: []sign.Author{{Name: "root", Key: a.RootKey.Public()}}}
	return a, a.Root.Save(filepath.Join(dir, sign.RootFile))
}

// Policy is a policy in which threshold of ada and bob must sign.
func (a *Authors) Policy(version uint64, threshold int) sign.Policy {
	return sign.Policy{
		Version: version, NotAfter: time.Now().Add(1000 * time.Hour).UTC(),
		Keys: sign.Keys{Threshold: threshold, Authors: []sign.Author{{Name: "ada", Key: a.Ada.Public()}, {Name: "bob", Key: a.Bob.Public()}}},
	}
}

// Signed is that policy, signed by the root. It panics if it can't be.
func (a *Authors) Signed(version uint64, threshold int) []byte {
	return must(a.Policy(version, threshold).Sign(a.RootKey))
}

// Next is the version of the next order: each is newer than the one before.
func (a *Authors) Next() uint64 {
	a.version++
	return a.version
}

// Order is an order for the whole fleet, for an hour.
func (a *Authors) Order(kind order.Kind, name, source string) order.Order {
	o := order.Order{Kind: kind, Name: name, Version: a.Next(), Audience: []string{order.Fleet}}
	if o.Scripted() {
		o.File, o.Digest = name+".scl", order.Digest([]byte(source))
		o.NotAfter = time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	}
	return o
}

// Sign is o, signed by ada. It panics if it can't be.
func (a *Authors) Sign(o order.Order) []byte { return must(sign.Order(o, a.Ada)) }

// Apply is a call to apply a script, changed by edit before it is signed.
func (a *Authors) Apply(name, source string, edit ...func(*order.Order)) *pb.ApplyRequest {
	kind := order.Run
	if program, _ := compile.Source(name+".scl", []byte(source)); program != nil && program.Standing() {
		kind = order.Standing
	}
	o := a.Order(kind, name, source)
	for _, e := range edit {
		e(&o)
	}
	return &pb.ApplyRequest{Source: []byte(source), Envelope: a.Sign(o)}
}

// Install puts the root's public half into a state directory.
func (a *Authors) Install(dir string) error {
	return errors.Join(os.MkdirAll(dir, 0o700), a.Root.Save(filepath.Join(dir, sign.RootFile)))
}

func must(data []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return data
}

package enroll

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/enroll"
)

// joiningDir holds the key and the mark of an enrolment that is not over: a crash in
// the middle of it finds them again. The credentials before are touched by none of it.
const joiningDir = "joining"

const markFile = "mark.json"

// attempt is who the files in joiningDir want to be.
type attempt struct {
	Name  string `json:"name"`
	Rack  string `json:"rack"`
	Token string `json:"token,omitempty"`
	Mark  []byte `json:"mark"`
}

// Prepare is the newcomer whose key and mark are in the state directory dir: those of
// an attempt at the same that was broken off, or fresh ones. token is the id, or "".
func Prepare(dir, name, rack, token string) (Newcomer, error) {
	const op = "prepare to join"
	at := filepath.Join(dir, joiningDir)
	key, keyErr := readKey(filepath.Join(at, trust.KeyFile))
	text, textErr := os.ReadFile(filepath.Join(at, markFile))
	var was attempt
	if keyErr == nil && textErr == nil && json.Unmarshal(text, &was) == nil &&
		was.Name == name && was.Rack == rack && was.Token == token && len(was.Mark) == enroll.MarkSize {
		return Newcomer{Name: name, Rack: rack, Key: key, Mark: was.Mark}, nil
	}
	mark := make([]byte, enroll.MarkSize)
	_, _ = rand.Read(mark) // never fails, see its documentation
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Newcomer{}, fault.Wrap(fault.Internal, op, err)
	}
	if text, err = json.Marshal(attempt{Name: name, Rack: rack, Token: token, Mark: mark}); err != nil {
		return Newcomer{}, fault.Wrap(fault.Internal, op, err)
	}
	err = errors.Join(os.RemoveAll(at), os.MkdirAll(at, 0o700))
	if err == nil {
		err = errors.Join(trust.WriteKey(filepath.Join(at, trust.KeyFile), key), trust.WriteFile(filepath.Join(at, markFile), 0o600, text))
	}
	return Newcomer{Name: name, Rack: rack, Key: key, Mark: mark}, fault.Wrap(fault.Unavailable, op, err)
}

// Keep puts what a machine has become into the state directory dir, in the files that
// trust.Load and ReadState read. Broken off, it is done again by the next attempt.
func (n Newcomer) Keep(dir, token string, j Joined) error {
	const op = "keep our first certificate"
	state := State{Counter: j.Counter, Mark: n.Mark, Token: token}
	err := trust.WriteKey(filepath.Join(dir, trust.KeyFile), n.Key)
	if err == nil {
		err = state.write(filepath.Join(dir, StateFile)) // before the certificate, or its first renewal would tell of an older one
	}
	if err == nil {
		err = trust.SaveRenewed(dir, j.Credentials.Chain(), j.Credentials.Anchors)
	}
	if err != nil {
		return fault.Wrap(fault.Unavailable, op, err)
	}
	return fault.Wrap(fault.Unavailable, op, os.RemoveAll(filepath.Join(dir, joiningDir)))
}

// readKey reads the key of an attempt.
func readKey(path string) (*ecdsa.PrivateKey, error) {
	read, err := trust.ReadKey(path)
	if err != nil {
		return nil, err
	}
	key, ok := read.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New(path + " holds no EC key")
	}
	return key, nil
}

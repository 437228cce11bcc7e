// Package seal hides a secret so that only the agents it is meant for can read
// it: HPKE (RFC 9180, base mode, DHKEM X25519, HKDF-SHA256, AES-256-GCM) to each
// agent's public key. The sealed text is what travels and rests: in a script's
// `(sealed "…")`, in the Raft log, in snapshots, on disks.
//
// Every envelope is bound to the rack, to the epoch of its key and to what the
// secret is for. Moved to another script, target or field it does not open.
//
// A key is believed by its Proof alone: the agent's certificate vouches for it.
package seal

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/keyfile"
	"github.com/chiba-mesh/chiba/trust"
)

const (
	prefix    = "chiba2."
	idSize    = 8 // bytes of the key's hash that say whose envelope it is
	keySize   = 32
	epochSize = 8
	maxKeys   = 32 // eight years of them
)

// KeyLife is how long secrets are sealed to one key. What was sealed to it opens for
// as long as it is among the keys in its file.
const KeyLife = 90 * 24 * time.Hour

// PublicKey is where an agent's secrets are sealed to: 32 bytes of X25519.
type PublicKey []byte

// Key opens what was sealed to its public half. It is safe for concurrent use.
type Key struct {
	private hpke.PrivateKey
	public  PublicKey
	epoch   uint64
	older   []*Key // that open what was sealed before
}

// ForGossip is the use of a key of the gossip among the agents of a site.
func ForGossip(site string) string { return "gossip|" + site }

// Recipient is who can read a secret.
type Recipient struct {
	Rack  string
	Epoch uint64 // of the key: a later one replaces it
	Key   PublicKey
}

// info is what an envelope is bound to. The parts are quoted, so that no two lists
// of parts have the same info.
func info(rack string, epoch uint64, use string) []byte {
	return fmt.Appendf(nil, "chiba-secret-v1|%q|%d|%q", rack, epoch, use)
}

// OpenKey reads the key in the file path, and makes it on first use (0600). The
// file holds keys, the newest first, each as its epoch, which is the second in which
// it was made, and 32 bytes: a later epoch replaces an earlier one, which still opens
// what was sealed to it.
func OpenKey(path string) (*Key, error) {
	path = filepath.Clean(path)
	raw, err := keyfile.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = addKey(path, nil, time.Now()); err != nil {
			return nil, err
		}
		raw, err = keyfile.Read(path)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "read sealing key", err)
	}
	return parseKeys(path, raw)
}

// RenewKey adds a new key to the file path if the newest is older than KeyLife, or
// always, if it is asked to. It must not be open; without a file there is nothing to
// renew.
func RenewKey(path string, now time.Time, always bool) error {
	raw, err := keyfile.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fault.Wrap(fault.Unavailable, "read sealing key", err)
	}
	have, err := parseKeys(path, raw)
	if err != nil || !always && now.Sub(time.Unix(int64(have.epoch), 0)) < KeyLife {
		return err
	}
	if len(raw) == keySize { // of a build without epochs
		raw = append(make([]byte, epochSize), raw...)
	}
	return addKey(path, raw[:min(len(raw), (maxKeys-1)*(epochSize+keySize))], now)
}

func parseKeys(path string, raw []byte) (*Key, error) {
	bad := func(why string) error {
		return fault.New(fault.BadInput, "read sealing key "+path, why).
			WithHint("restore it; or move it away, and a new one is made: scripts with secrets must be applied again")
	}
	if len(raw) == keySize { // of a build without epochs
		raw = append(make([]byte, epochSize), raw...)
	}
	if len(raw) == 0 || len(raw)%(epochSize+keySize) != 0 {
		return nil, bad(fmt.Sprintf("it holds %d bytes, which are no keys", len(raw)))
	}
	var all []*Key
	for one := range slices.Chunk(raw, epochSize+keySize) {
		private, err := ecdh.X25519().NewPrivateKey(one[epochSize:])
		if err != nil {
			return nil, bad(err.Error())
		}
		key, err := newKey(private, binary.BigEndian.Uint64(one))
		if err != nil {
			return nil, err
		}
		all = append(all, key)
	}
	all[0].older = all[1:]
	return all[0], nil
}

// addKey makes a key and puts it before the others.
func addKey(path string, others []byte, now time.Time) error {
	const op = "make sealing key"
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return fault.Wrap(fault.Internal, op, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fault.Wrap(fault.Unavailable, op, err)
	}
	fresh := append(binary.BigEndian.AppendUint64(nil, uint64(now.Unix())), private.Bytes()...)
	return fault.Wrap(fault.Unavailable, op, trust.WriteFile(path, 0o600, append(fresh, others...)))
}

func newKey(private *ecdh.PrivateKey, epoch uint64) (*Key, error) {
	key, err := hpke.NewDHKEMPrivateKey(private)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "use sealing key", err)
	}
	return &Key{private: key, public: private.PublicKey().Bytes(), epoch: epoch}, nil
}

// Public is what others seal to.
func (k *Key) Public() PublicKey { return k.public }

// Recipient is the key as one to seal to.
func (k *Key) Recipient(rack string) Recipient {
	return Recipient{Rack: rack, Epoch: k.epoch, Key: k.public}
}

// Seal hides plain for every recipient, for one use. The text has one envelope
// each, so its length grows with their number; it tells how long the secret is
// (its length plus a constant) and nothing else.
func Seal(recipients []Recipient, use string, plain fleet.Secret) (string, error) {
	const op = "seal secret"
	if len(recipients) == 0 {
		return "", fault.New(fault.Conflict, op, "no agent is known that could read it").
			WithHint("wait until the rack's agent has connected: chiba get agents")
	}
	envelopes := make([]string, 0, len(recipients))
	for _, recipient := range recipients {
		envelope, err := sealOne(recipient, use, plain)
		if err != nil {
			return "", fault.Wrap(fault.Internal, op, err)
		}
		envelopes = append(envelopes, base64.RawURLEncoding.EncodeToString(envelope))
	}
	return prefix + strings.Join(envelopes, "."), nil
}

func sealOne(r Recipient, use string, plain fleet.Secret) ([]byte, error) {
	point, err := ecdh.X25519().NewPublicKey(r.Key)
	if err != nil {
		return nil, err
	}
	public, err := hpke.NewDHKEMPublicKey(point)
	if err != nil {
		return nil, err
	}
	box, err := hpke.Seal(public, hpke.HKDFSHA256(), hpke.AES256GCM(), info(r.Rack, r.Epoch, use), []byte(plain.Reveal()))
	if err != nil {
		return nil, err
	}
	return append(keyID(r.Key), box...), nil
}

func keyID(public PublicKey) []byte {
	sum := sha256.Sum256(public)
	return sum[:idSize:idSize]
}

// named is the key with that id, of this and the older ones; nil if there is none.
func (k *Key) named(id []byte) *Key {
	for _, one := range append([]*Key{k}, k.older...) {
		if string(id) == string(keyID(one.public)) {
			return one
		}
	}
	return nil
}

// Open finds the envelope for k in a sealed text and opens it.
func (k *Key) Open(sealed, rack, use string) (fleet.Secret, error) {
	const op = "open sealed secret"
	rest, ok := strings.CutPrefix(sealed, prefix)
	if !ok {
		return fleet.Secret{}, fault.New(fault.BadInput, op, "it is not in the sealed form")
	}
	for text := range strings.SplitSeq(rest, ".") {
		envelope, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil || len(envelope) < idSize {
			return fleet.Secret{}, fault.New(fault.BadInput, op, "it is damaged")
		}
		by := k.named(envelope[:idSize])
		if by == nil {
			continue
		}
		plain, err := hpke.Open(by.private, hpke.HKDFSHA256(), hpke.AES256GCM(), info(rack, by.epoch, use), envelope[idSize:])
		if err != nil {
			return fleet.Secret{}, fault.New(fault.Untrusted, op, "it was sealed for another use, or is damaged").
				WithHint("a sealed secret can't be copied to another script, target, field or rack: write the secret itself")
		}
		return fleet.NewSecret(string(plain)), nil
	}
	return fleet.Secret{}, fault.New(fault.Denied, op, "it was not sealed for this agent").
		WithHint("apply the script again: it is then sealed for every agent that is known now")
}

package sign

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust"
)

// Key is the private key of an author, or of a root of policies. It is immutable.
type Key struct{ private ed25519.PrivateKey }

// OpenKey reads the key in the file path.
func OpenKey(path string) (*Key, error) {
	const op = "read signing key"
	read, err := trust.ReadKey(path)
	private, ok := read.(ed25519.PrivateKey)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fault.New(fault.NotFound, op, "no file "+path).WithHint("make one with: chiba trust author init")
	case fault.Is(err, fault.Denied):
		return nil, fault.Wrap(fault.Denied, op, err)
	case err != nil:
		return nil, fault.Wrap(fault.BadInput, op, err)
	case !ok:
		return nil, fault.New(fault.BadInput, op, path+" holds no ed25519 key")
	}
	return &Key{private}, nil
}

// MakeKey makes a key in the file path (0600). It replaces none.
func MakeKey(path string) (*Key, error) {
	const op = "make signing key"
	if _, err := os.Lstat(path); err == nil {
		return nil, fault.New(fault.Conflict, op, "there is a file "+path).WithHint("move it away, or name another one")
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, op, err)
	}
	if err = os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	return &Key{private}, fault.Wrap(fault.Unavailable, op, trust.WriteKey(path, private))
}

// EnsureKey is OpenKey, or MakeKey if there is none.
func EnsureKey(path string) (*Key, error) {
	key, err := OpenKey(path)
	if fault.Is(err, fault.NotFound) {
		return MakeKey(path)
	}
	return key, err
}

// Public is the public half.
func (k *Key) Public() PublicKey {
	return PublicKey(k.private.Public().(ed25519.PublicKey)) //nolint:forcetypeassert // its documented type
}

// PublicKey is an ed25519 key. As text it is "ed25519:" and base64.
type PublicKey ed25519.PublicKey

const scheme = "ed25519:"

// ParsePublic reads the text form of a key.
func ParsePublic(text string) (PublicKey, error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(text), scheme)
	raw, err := base64.StdEncoding.DecodeString(rest)
	if !ok || err != nil || len(raw) != ed25519.PublicKeySize {
		return nil, fault.New(fault.BadInput, "read public key", fmt.Sprintf("%.80q is none", text)).
			WithHint("it begins with " + scheme + "; see yours with: chiba trust author show")
	}
	return raw, nil
}

// String is the text form.
func (p PublicKey) String() string { return scheme + base64.StdEncoding.EncodeToString(p) }

// ID is the hex SHA-256 of the key: what an envelope says of who signed it.
func (p PublicKey) ID() string {
	sum := sha256.Sum256(p)
	return hex.EncodeToString(sum[:])
}

// MarshalText implements encoding.TextMarshaler.
func (p PublicKey) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *PublicKey) UnmarshalText(text []byte) (err error) {
	*p, err = ParsePublic(string(text))
	return err
}

// signer and verifier are what the DSSE library asks for.
type signer struct{ key *Key }

func (s signer) Sign(_ context.Context, data []byte) ([]byte, error) {
	return ed25519.Sign(s.key.private, data), nil
}
func (s signer) KeyID() (string, error) { return s.key.Public().ID(), nil }

type verifier struct{ key PublicKey }

func (v verifier) Verify(_ context.Context, data, sig []byte) error {
	if !ed25519.Verify(ed25519.PublicKey(v.key), data, sig) {
		return errors.New("the signature is wrong")
	}
	return nil
}
func (v verifier) KeyID() (string, error)   { return v.key.ID(), nil }
func (v verifier) Public() crypto.PublicKey { return ed25519.PublicKey(v.key) }

// Author is a named key.
type Author struct {
	Name string    `json:"name"`
	Key  PublicKey `json:"key"`
}

// Keys are authors of whom Threshold must sign.
type Keys struct {
	Authors   []Author `json:"authors"`
	Threshold int      `json:"threshold"`
}

// RootFile is where a process keeps the keys that policies are signed with.
const RootFile = "script-root.json"

// LoadRoot reads the keys that may sign policies.
func LoadRoot(path string) (Keys, error) {
	const op = "read the keys that sign policies"
	data, err := os.ReadFile(path)
	if err != nil {
		return Keys{}, fault.New(fault.BadInput, op, err.Error()).
			WithHint("copy " + RootFile + " from who keeps the policy; chiba trust root init makes it")
	}
	var k Keys
	if err = decode(data, &k); err == nil {
		err = k.check(k.Threshold)
	}
	if err != nil {
		return Keys{}, fault.New(fault.BadInput, op, path+": "+err.Error())
	}
	return k, nil
}

// Save writes k for LoadRoot.
func (k Keys) Save(path string) error {
	data, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return fault.Wrap(fault.Internal, "write "+path, err)
	}
	return fault.Wrap(fault.Unavailable, "write "+path, trust.WriteFile(path, 0o644, append(data, '\n')))
}

// check sees to it that no key counts twice, and that threshold can be met.
func (k Keys) check(threshold int) error {
	names, keys := map[string]bool{}, map[string]bool{}
	for _, a := range k.Authors {
		if !trust.ValidName(a.Name) || len(a.Key) != ed25519.PublicKeySize {
			return fmt.Errorf("author %q has no name or no key", a.Name)
		}
		if names[a.Name] || keys[a.Key.ID()] {
			return fmt.Errorf("author %s, or their key, is there twice", a.Name)
		}
		names[a.Name], keys[a.Key.ID()] = true, true
	}
	if threshold < 1 || threshold > len(k.Authors) {
		return fmt.Errorf("the threshold %d can't be met by %d authors", threshold, len(k.Authors))
	}
	return nil
}

package author

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/sign"
)

const policyLife = 365 * 24 * time.Hour

// Solo makes, unless they are there, a root, one author and a policy in which the
// author signs alone: what a fleet of one person needs. The keys come into the
// directories root and author; public is given what everybody may know, the root's
// public half and the signed policy.
func Solo(root, author, name string, public ...string) error {
	rootKey, err := sign.EnsureKey(filepath.Join(root, RootKey))
	if err != nil {
		return err
	}
	authorKey, err := sign.EnsureKey(filepath.Join(author, KeyFile))
	if err != nil {
		return err
	}
	keys := sign.Keys{Threshold: 1, Authors: []sign.Author{{Name: rootName, Key: rootKey.Public()}}}
	signed, err := soloPolicy(filepath.Join(root, sign.PolicyFile), keys, rootKey, sign.Author{Name: name, Key: authorKey.Public()})
	if err != nil {
		return err
	}
	for _, dir := range public {
		if err = os.MkdirAll(dir, 0o700); err != nil {
			return fault.Wrap(fault.Unavailable, "make authors", err)
		}
		err = errors.Join(keys.Save(filepath.Join(dir, sign.RootFile)),
			fault.Wrap(fault.Unavailable, "make authors", trust.WriteFile(filepath.Join(dir, sign.PolicyFile), 0o644, signed)))
		if err != nil {
			return err
		}
	}
	return nil
}

// soloPolicy is the policy in path, or a new one if there is none or half of its
// life is over.
func soloPolicy(path string, keys sign.Keys, root *sign.Key, author sign.Author) ([]byte, error) {
	now := time.Now()
	signed, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Wrap(fault.Unavailable, "read policy", err)
	}
	if err == nil {
		if p, wrong := keys.Policy(signed); wrong == nil && !p.Expired(now.Add(policyLife/2)) {
			return signed, nil
		}
	}
	p := sign.Policy{
		Version: uint64(now.UnixMilli()), NotAfter: now.Add(policyLife).UTC().Truncate(time.Second),
		Keys: sign.Keys{Threshold: 1, Authors: []sign.Author{author}},
	}
	if signed, err = p.Sign(root); err != nil {
		return nil, err
	}
	return signed, fault.Wrap(fault.Unavailable, "write policy", trust.WriteFile(path, 0o644, signed))
}

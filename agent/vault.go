package agent

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"slices"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/trust/seal"
)

// vault keeps what the lanes must remember: logins that scripts have changed,
// sealed to the agent's own key; digests of passwords that were set; sessions
// that are open. Lanes ask by the node's name; what is kept is keyed by the pin of
// its BMC, which is the same under another name. It is safe for concurrent use.
type vault struct {
	spool *spool.Spool
	key   *seal.Key
	rack  string
	// entry is the node's in the catalogue, its login filled in.
	entry  func(fleet.NodeName) (Entry, bool)
	others *companion
	shared func() // waits until the standby has what was kept
}

// pin is what is kept of a node under.
func (v *vault) pin(bmc string) string {
	e, _ := v.entry(fleet.NodeName(bmc))
	return e.Pin
}

// kept is one login at rest.
type kept struct {
	User   string `json:"user"`
	Sealed string `json:"sealed"`
}

const keyDigest = "digest-key"

// Candidates are the logins that were set on the BMC, the last one first, and
// then the configured one.
func (v *vault) Candidates(bmc string) ([]redfish.Credentials, error) {
	const op = "look up login"
	var all []redfish.Credentials
	logins, err := v.logins(bmc)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, op, err)
	}
	for _, k := range logins {
		password, openErr := v.key.Open(k.Sealed, v.rack, v.loginUse(bmc))
		if openErr != nil {
			return nil, fault.Wrap(fault.Denied, op, openErr)
		}
		all = append(all, redfish.Credentials{User: k.User, Password: password})
	}
	e, ok := v.entry(fleet.NodeName(bmc))
	if !ok {
		return all, nil
	}
	user, password, err := e.read()
	if err != nil && len(all) == 0 {
		return nil, fault.Wrap(fault.Denied, op, err)
	}
	if err == nil && !slices.ContainsFunc(all, func(c redfish.Credentials) bool { return same(c, user, password) }) {
		all = append(all, redfish.Credentials{User: user, Password: password})
	}
	return all, nil
}

func same(c redfish.Credentials, user string, password fleet.Secret) bool {
	return c.User == user && hmac.Equal([]byte(c.Password.Reveal()), []byte(password.Reveal()))
}

// Prove keeps the login that the BMC accepted and forgets the others. The
// configured one need not be kept.
func (v *vault) Prove(bmc string, proven redfish.Credentials) error {
	if e, ok := v.entry(fleet.NodeName(bmc)); ok {
		if user, password, err := e.read(); err == nil && same(proven, user, password) {
			return v.keep(bmc, nil)
		}
	}
	k, err := v.seal(bmc, proven)
	if err != nil {
		return err
	}
	return v.keep(bmc, []kept{k})
}

// Propose keeps a login that is about to be set, before those that are there. One
// that was proposed before is moved to the front.
func (v *vault) Propose(bmc string, next redfish.Credentials) error {
	logins, err := v.logins(bmc)
	if err != nil {
		return fault.Wrap(fault.Internal, "keep login", err)
	}
	k, err := v.seal(bmc, next)
	if err != nil {
		return err
	}
	others := slices.DeleteFunc(logins, func(old kept) bool {
		password, openErr := v.key.Open(old.Sealed, v.rack, v.loginUse(bmc))
		return openErr == nil && same(next, old.User, password)
	})
	return v.keep(bmc, append([]kept{k}, others...))
}

// loginUse binds a sealed login to its BMC.
func (v *vault) loginUse(bmc string) string { return "login " + v.pin(bmc) }

func (v *vault) seal(bmc string, c redfish.Credentials) (kept, error) {
	sealed, err := seal.Seal(v.others.recipients(v.key.Recipient(v.rack)), v.loginUse(bmc), c.Password)
	return kept{User: c.User, Sealed: sealed}, err
}

func (v *vault) logins(bmc string) (logins []kept, err error) {
	err = v.spool.View(func(tx *spool.Tx) error {
		if raw := tx.Get(spool.Secrets, v.pin(bmc)); raw != nil {
			return json.Unmarshal(raw, &logins)
		}
		return nil
	})
	return logins, err
}

func (v *vault) keep(bmc string, logins []kept) error {
	err := v.spool.Update(func(tx *spool.Tx) error {
		if len(logins) == 0 {
			tx.Delete(spool.Secrets, v.pin(bmc))
		} else {
			tx.PutJSON(spool.Secrets, v.pin(bmc), logins)
		}
		return nil
	})
	if err == nil {
		v.shared()
	}
	return err
}

// Matches compares password with the one that was set last.
func (v *vault) Matches(bmc, user string, password fleet.Secret) (same, known bool, err error) {
	key, err := v.digestKey()
	if err != nil {
		return false, false, err
	}
	err = v.spool.View(func(tx *spool.Tx) error {
		have := tx.Get(spool.Digests, spool.Key(v.pin(bmc), user))
		known = have != nil
		same = known && hmac.Equal(have, digest(key, v.pin(bmc), user, password))
		return nil
	})
	return same, known, err
}

// Store remembers that password was set.
func (v *vault) Store(bmc, user string, password fleet.Secret) error {
	key, err := v.digestKey()
	if err != nil {
		return err
	}
	return v.spool.Update(func(tx *spool.Tx) error {
		tx.Put(spool.Digests, spool.Key(v.pin(bmc), user), digest(key, v.pin(bmc), user, password))
		return nil
	})
}

// digest is keyed, so that the table alone tells nobody which nodes share a
// password and can't be searched with a list of common ones.
func digest(key fleet.Secret, pin, user string, password fleet.Secret) []byte {
	mac := hmac.New(sha256.New, []byte(key.Reveal()))
	mac.Write([]byte(spool.Key(pin, user, password.Reveal())))
	return mac.Sum(nil)
}

// digestKey is the key of the digests, made on first use and kept sealed.
func (v *vault) digestKey() (fleet.Secret, error) {
	var sealed string
	err := v.spool.View(func(tx *spool.Tx) error {
		sealed = string(tx.Get(spool.Notes, keyDigest))
		return nil
	})
	if err != nil {
		return fleet.Secret{}, err
	}
	if sealed != "" {
		return v.key.Open(sealed, v.rack, keyDigest)
	}
	fresh, err := seal.Seal([]seal.Recipient{v.key.Recipient(v.rack)}, keyDigest, fleet.NewSecret(rand.Text()))
	if err != nil {
		return fleet.Secret{}, err
	}
	err = v.spool.Update(func(tx *spool.Tx) error {
		if have := tx.Get(spool.Notes, keyDigest); have != nil {
			sealed = string(have) // another lane was faster
			return nil
		}
		sealed = fresh
		tx.Put(spool.Notes, keyDigest, []byte(fresh))
		return nil
	})
	if err != nil {
		return fleet.Secret{}, err
	}
	return v.key.Open(sealed, v.rack, keyDigest)
}

// Save remembers that a session may be open on the BMC.
func (v *vault) Save(bmc, uri string) error {
	return v.spool.UpdateSoon(func(tx *spool.Tx) error {
		tx.Put(spool.Sessions, v.pin(bmc), []byte(uri))
		return nil
	})
}

// Load is the session that may be open on the BMC.
func (v *vault) Load(bmc string) (uri string, open bool, err error) {
	err = v.spool.View(func(tx *spool.Tx) error {
		raw := tx.Get(spool.Sessions, v.pin(bmc))
		uri, open = string(raw), raw != nil
		return nil
	})
	return uri, open, err
}

// Forget is called when the session is deleted.
func (v *vault) Forget(bmc string) error {
	return v.spool.UpdateSoon(func(tx *spool.Tx) error {
		tx.Delete(spool.Sessions, v.pin(bmc))
		return nil
	})
}

// openSecrets puts what the sealed secrets of a script's config hold in their place, in a
// copy that lives for one use. A setting that is barred, or whose secret can't be
// opened, is left out and told by its index.
func openSecrets(open func(sealed, use string) (fleet.Secret, error), c *scl.Config, barred map[int]error) (opened []scl.Setting, left map[int]error) {
	left = make(map[int]error)
	for i, s := range c.Settings {
		if left[i] = barred[i]; left[i] != nil {
			continue
		}
		if s.Secret.Sealed != "" {
			plain, err := open(s.Secret.Sealed, s.Secret.Use)
			if err != nil {
				left[i] = err
				continue
			}
			s.Secret.Literal = plain
		}
		opened = append(opened, s)
	}
	return opened, left
}

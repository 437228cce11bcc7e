package agent

import (
	"encoding/json"
	"time"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/trust/level"
)

// word is what a person has said, and when.
type word struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// admission is what is kept of how a BMC came to be one of the rack, or why it is
// none. It is kept under the first key of the BMC.
type admission struct {
	Pin   string               `json:"pin"`
	State fleet.AdmissionState `json:"state,omitempty"` // "admitted", or "" for nodes of the catalogue and strangers
	Name  fleet.NodeName       `json:"name,omitempty"`  // that it has got
	Was   fleet.NodeName       `json:"was,omitempty"`   // its name as a stranger
	Why   string               `json:"why,omitempty"`
	By    []string             `json:"by,omitempty"`
	At    time.Time            `json:"at,omitzero"`
	// Listed: it was let in as a row of the asset list.
	Listed bool `json:"listed,omitempty"`

	Words   []word `json:"words,omitempty"` // of those who let it in
	Refused *word  `json:"refused,omitempty"`
	Reason  string `json:"reason,omitempty"` // of the refusal

	Asks     fleet.NodeName `json:"asks,omitempty"` // the name that a person wants it to have
	Serial   string         `json:"serial,omitempty"`
	Position string         `json:"position,omitempty"`
	Make     string         `json:"make,omitempty"`
	UUID     string         `json:"uuid,omitempty"`
	Address  string         `json:"address,omitempty"` // where it was when it was let in
	User     string         `json:"user,omitempty"`
	Sealed   string         `json:"sealed,omitempty"` // the password of User, to the agent's own key
	Bound    string         `json:"bound,omitempty"`  // the key of the BMC that the password was given for
}

// said notes the word of a person, of each the last one.
func (m admission) said(by []string, at time.Time) admission {
	words := append([]word(nil), m.Words...)
	for _, who := range by {
		known := false
		for i := range words {
			known = known || words[i].By == who
		}
		if !known {
			words = append(words, word{who, at})
		}
	}
	m.Words = words
	return m
}

// approvals are the words as facts.
func (m admission) approvals() []level.Fact[string] {
	var all []level.Fact[string]
	for _, w := range m.Words {
		all = append(all, level.Fact[string]{Is: w.By, At: w.At, From: byPerson})
	}
	return all
}

// barred is why a person keeps the BMC out.
func (m admission) barred() level.Fact[string] {
	if m.Refused == nil {
		return level.Fact[string]{}
	}
	return level.Fact[string]{Is: m.Reason, At: m.Refused.At, From: m.Refused.By}
}

// entry is the member's, as the catalogue would have it.
func (m admission) entry(open func(sealed, use string) (fleet.Secret, error)) Entry {
	e := Entry{Name: m.Name, Pin: m.Pin, Login: Login{Factory: factoryOf(m.Make)}}
	if m.Position != "" {
		e.Labels = map[string]string{"position": m.Position}
	}
	if m.Sealed != "" || e.Factory == "" {
		e.Login = Login{Given: &givenLogin{user: m.User, open: func() (fleet.Secret, error) { return open(m.Sealed, useAdmission(m.Bound)) }}}
	}
	return e
}

// factoryOf is the login that a make leaves the factory with, "" if none is known.
func factoryOf(brand string) string {
	if brand == "OpenBMC" {
		return FactoryOpenBMC
	}
	return ""
}

// givenLogin is a login that a person gave when they let the BMC in.
type givenLogin struct {
	user string
	open func() (fleet.Secret, error)
}

func (g *givenLogin) read() (string, fleet.Secret, error) {
	if g.user == "" {
		return "", fleet.Secret{}, fault.New(fault.Denied, "look up login", "no login is known for this make of BMC").
			WithHint("give it one: chiba bmc admit NODE --user USER --password-file FILE")
	}
	password, err := g.open()
	return g.user, password, err
}

// useAdmission binds a login that a person gave to its BMC.
func useAdmission(pin string) string { return "login of " + pin }

func (a *Agent) openGiven(sealed, use string) (fleet.Secret, error) {
	return a.key.Open(sealed, string(a.cfg.Rack), use)
}

const admissions = "admission" // begins their keys among the notes

func admissionKey(pin string) string { return spool.Key(admissions, pin) }

// admissionOf is what is kept of the BMC with that first key.
func (a *Agent) admissionOf(pin string) (m admission, err error) {
	err = a.spool.View(func(tx *spool.Tx) error {
		m, err = admissionIn(tx, pin)
		return err
	})
	return m, err
}

func admissionIn(tx *spool.Tx, pin string) (admission, error) {
	m := admission{Pin: pin}
	raw := tx.Get(spool.Notes, admissionKey(pin))
	if raw != nil {
		return m, fault.Wrap(fault.Garbage, "read who let a BMC in", json.Unmarshal(raw, &m))
	}
	if tx.Has(spool.Notes, approvedKey(pin)) { // of a version that did not ask who
		m.Words = []word{{somebody, tx.Time(spool.Notes, approvedKey(pin))}}
	}
	return m, nil
}

// somebody is who has let a BMC in if it is not known who.
const somebody = "a person"

func (a *Agent) keepAdmission(m admission) error {
	return a.spool.Update(func(tx *spool.Tx) error {
		tx.PutJSON(spool.Notes, admissionKey(m.Pin), m)
		return nil
	})
}

// admitted are the members that stand in no catalogue, by their first keys.
func admitted(disk *spool.Spool) (map[string]admission, error) {
	all := make(map[string]admission)
	err := disk.View(func(tx *spool.Tx) error {
		for _, raw := range tx.All(spool.Notes, spool.Key(admissions)) {
			var m admission
			if err := json.Unmarshal(raw, &m); err != nil {
				return fault.Wrap(fault.Garbage, "read who let a BMC in", err)
			}
			if m.State == fleet.Admitted {
				all[m.Pin] = m
			}
		}
		return nil
	})
	return all, err
}

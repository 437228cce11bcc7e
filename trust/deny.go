package trust

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// The kinds of subject besides the roles.
const (
	denyRack   = "rack"
	denySPKI   = "spki"
	denySerial = "serial"
	// denyServer begins the serial number of a server, which denies its BMC.
	denyServer = "serial:"
)

// SubjectRule tells a person what ParseSubject takes.
const SubjectRule = "agent/NAME, operator/NAME, coordinator/NAME, rack/NAME, spki/HEX, serial/HEX or serial:NUMBER"

// ParseSubject is the one form of a denial's subject: a key may be given as its pin
// ("sha256/…") or with colons, a number in capitals.
func ParseSubject(s string) (string, error) {
	if number, ok := strings.CutPrefix(strings.TrimSpace(s), denyServer); ok {
		return parseServer(s, number)
	}
	kind, value, ok := strings.Cut(strings.TrimSpace(s), "/")
	switch {
	case !ok:
	case kind == "sha256":
		if raw, err := decodePin(s); err == nil {
			return denySPKI + "/" + hex.EncodeToString(raw), nil
		}
	case kind == denySPKI:
		if raw, err := hex.DecodeString(plainHex(value)); err == nil && len(raw) == sha256.Size {
			return denySPKI + "/" + hex.EncodeToString(raw), nil
		}
	case kind == denySerial:
		digits := strings.TrimLeft(plainHex(value), "0")
		if _, err := hex.DecodeString(padded(digits)); err == nil && digits != "" && len(digits) <= 40 {
			return denySerial + "/" + digits, nil
		}
	case kind == denyRack && ValidLabel(value):
		return kind + "/" + value, nil
	case slices.Contains([]Role{Agent, Operator, Coordinator}, Role(kind)) && ValidName(value):
		return kind + "/" + value, nil
	}
	return "", fault.New(fault.BadInput, "read who is denied", fmt.Sprintf("%q names nobody", s)).WithHint("write " + SubjectRule)
}

// parseServer is "serial:" and the serial number of a server, in capitals: makers
// and databases write them either way.
func parseServer(s, number string) (string, error) {
	const longest = 64
	number = strings.ToUpper(strings.TrimSpace(number))
	if number == "" || len(number) > longest || strings.ContainsFunc(number, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fault.New(fault.BadInput, "read who is denied", fmt.Sprintf("%q is no serial number", s)).
			WithHint("write serial: and the number on the server's label, without spaces")
	}
	return denyServer + number, nil
}

// ServerSubject is the subject that denies the server with a serial number.
func ServerSubject(number string) string { return denyServer + number }

func plainHex(s string) string { return strings.ToLower(strings.ReplaceAll(s, ":", "")) }

func padded(digits string) string {
	if len(digits)%2 == 1 {
		return "0" + digits
	}
	return digits
}

// SubjectsOf is every subject that would deny the owner of a verified chain, leaf
// first.
func SubjectsOf(chain []*x509.Certificate, id Identity) []string {
	subjects := []string{string(id.Role) + "/" + id.Name}
	if id.Rack != "" {
		subjects = append(subjects, denyRack+"/"+id.Rack)
	}
	for _, c := range chain {
		sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
		subjects = append(subjects, denySPKI+"/"+hex.EncodeToString(sum[:]), denySerial+"/"+c.SerialNumber.Text(16))
	}
	return subjects
}

// Denials is the deny list of a process. The zero value denies nobody, nor does
// nil. It is safe for concurrent use.
type Denials struct {
	list atomic.Pointer[map[string]fleet.Denial]
}

// Set replaces the list. The slice is the caller's.
func (d *Denials) Set(list []fleet.Denial) {
	m := make(map[string]fleet.Denial, len(list))
	for _, e := range list {
		m[e.Subject] = e
	}
	d.list.Store(&m)
}

// Check is an error of kind fault.Untrusted if anybody in a verified chain is denied.
func (d *Denials) Check(chain []*x509.Certificate, id Identity) error {
	if d == nil {
		return nil
	}
	list := d.list.Load()
	if list == nil || len(*list) == 0 {
		return nil
	}
	for _, s := range SubjectsOf(chain, id) {
		if e, denied := (*list)[s]; denied {
			return fault.New(fault.Untrusted, "verify peer", fmt.Sprintf("%s is denied since %s (%s): %s", id, stamp(e.At), e.Subject, e.Reason)).
				WithHint("if that is over: chiba trust allow " + e.Subject)
		}
	}
	return nil
}

// Of is the denial of a subject in the form of ParseSubject, if there is one.
func (d *Denials) Of(subject string) (e fleet.Denial, denied bool) {
	if d == nil {
		return e, false
	}
	if list := d.list.Load(); list != nil {
		e, denied = (*list)[subject]
	}
	return e, denied
}

// MergeDenials is the union of the lists, by subject, sorted. Of two denials of one
// subject the earlier stays.
func MergeDenials(lists ...[]fleet.Denial) []fleet.Denial {
	all := slices.Concat(lists...)
	slices.SortStableFunc(all, func(a, b fleet.Denial) int {
		if c := strings.Compare(a.Subject, b.Subject); c != 0 {
			return c
		}
		return a.At.Compare(b.At)
	})
	return slices.CompactFunc(all, func(a, b fleet.Denial) bool { return a.Subject == b.Subject })
}

// SplitSubject is the kind and the value of a subject.
func SplitSubject(subject string) (kind, value string) {
	kind, value, _ = strings.Cut(subject, "/")
	return kind, value
}

// decodePin is the hash in a pin.
func decodePin(pin string) ([]byte, error) {
	text, ok := strings.CutPrefix(pin, "sha256/")
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || !ok || len(raw) != sha256.Size {
		return nil, errors.New("a pin is sha256/ and 32 bytes in base64")
	}
	return raw, nil
}

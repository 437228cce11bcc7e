package enroll

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/vouch"
)

const (
	bundleContext   = "chiba-join-bundle-v1"
	maxBundle       = 64 << 10
	maxCoordinators = 64
	leastPins       = 2 // the root and the next one: a change must find it prepared
)

// Bundle is all that a machine is told before it reaches anybody. It travels on the
// install medium, and is a secret as long as its token is good.
type Bundle struct {
	Site         string          `json:"site"`
	Rack         string          `json:"rack"`
	Name         string          `json:"name"` // of the agent
	Coordinators []string        `json:"coordinators"`
	Pins         []string        `json:"pins"` // of the roots, as trust.Pin has them
	Token        string          `json:"token"`
	Secret       []byte          `json:"secret"`
	NotAfter     time.Time       `json:"notAfter"`
	MinVersion   uint32          `json:"minVersion"`
	ScriptRoot   json.RawMessage `json:"scriptRoot,omitempty"` // who signs the policy of authors
}

// Encode signs the bundle with an operator's certificate, which must lead to one of
// its pins: who changes an address or a pin in it must have one, too.
func (b Bundle) Encode(by trust.Credentials) ([]byte, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	claim, err := json.Marshal(b) //nolint:gosec // the secret is what a bundle brings
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "write the join bundle", err)
	}
	return vouch.For(bundleContext, claim, by.Certificate)
}

// DecodeBundle reads a bundle and tells who has signed it: an operator of its site,
// by a certificate below one of its own pins that is good now.
func DecodeBundle(data []byte, now time.Time) (b Bundle, by trust.Identity, err error) {
	bad := func(why string) (Bundle, trust.Identity, error) {
		return Bundle{}, trust.Identity{}, fault.New(fault.Untrusted, "read the join bundle", why).
			WithHint("make another: chiba trust token create; compare this machine's clock, too")
	}
	if len(data) > maxBundle {
		return bad("it is too large")
	}
	claim, chain, err := vouch.Peek(data)
	if err != nil {
		return bad("it is none, or damaged")
	}
	if err = strict(claim, &b); err != nil {
		return bad("it is of another version: " + err.Error())
	}
	if err = b.check(); err != nil {
		return Bundle{}, trust.Identity{}, err
	}
	roots := x509.NewCertPool()
	for _, c := range trust.Pinned(chain, b.Pins) {
		roots.AddCert(c)
	}
	if _, by, err = vouch.Check(bundleContext, data, roots, now); err != nil {
		return bad("nobody of its own site has signed it: " + err.Error())
	}
	if by.Role != trust.Operator || by.Site != b.Site {
		return bad("it is signed by " + by.String() + " of site " + by.Site + ", who is no operator of site " + b.Site)
	}
	if now.After(b.NotAfter) {
		return bad("it was good until " + b.NotAfter.UTC().Format(time.RFC3339))
	}
	return b, by, nil
}

// check says the first thing that is wrong.
func (b Bundle) check() error {
	bad := func(format string, args ...any) error {
		return fault.New(fault.BadInput, "read the join bundle", fmt.Sprintf(format, args...))
	}
	switch {
	case !trust.ValidLabel(b.Site):
		return bad("%q is no name of a site", b.Site)
	case !trust.ValidLabel(b.Rack):
		return bad("%q is no name of a rack; %s", b.Rack, trust.LabelRule)
	case !trust.ValidName(b.Name):
		return bad("%q is no name of an agent", b.Name)
	case len(b.Coordinators) == 0 || len(b.Coordinators) > maxCoordinators:
		return bad("it names %d coordinators", len(b.Coordinators))
	case len(b.Pins) < leastPins:
		return bad("it has %d pins of roots, and two are needed, the current one's and the next", len(b.Pins))
	case len(b.Secret) != SecretSize || b.Token == "":
		return bad("it has no token")
	case b.MinVersion > Version:
		return bad("it needs version %d of chiba-enroll, this build speaks %d", b.MinVersion, Version)
	}
	for _, addr := range b.Coordinators {
		if err := CheckAddr(addr); err != nil {
			return err
		}
	}
	return CheckPins(b.Pins)
}

// CheckAddr says what is wrong with a coordinator's address: a name or an address, "["
// and "]" around one with colons, and a port.
func CheckAddr(addr string) error {
	i := strings.LastIndexByte(addr, ':')
	host, port := addr[:max(i, 0)], addr[i+1:]
	bare := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if i < 0 || bare == "" || port == "" || strings.Contains(host, ":") != (bare != host) || strings.ContainsFunc(addr, notPlain) {
		return fault.New(fault.BadInput, "read the address", fmt.Sprintf("%q is no host:port", addr))
	}
	return nil
}

func notPlain(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"'\\/`, r) }

// CheckPins says what is wrong with pins.
func CheckPins(pins []string) error {
	for _, pin := range pins {
		if _, err := trust.ParseSubject(pin); err != nil || !strings.HasPrefix(pin, "sha256/") {
			return fault.New(fault.BadInput, "read the pin", fmt.Sprintf("%.80q is none; a pin is sha256/ and 32 bytes in base64", pin)).
				WithHint("see them with: chiba ca root --root DIR")
		}
	}
	return nil
}

// strict reads one JSON value without unknown fields.
func strict(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows it")
	}
	return nil
}

package sign

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/order"
)

// PolicyType is the type of a policy in its envelope.
const PolicyType = "application/vnd.chiba.policy+json"

// PolicyFile is where a coordinator finds a signed policy to begin with.
const PolicyFile = "policy.dsse"

// Policy says whose signatures an order needs.
type Policy struct {
	Version uint64 `json:"version"` // grows; agents keep the highest and take nothing older
	// NotAfter is when the policy stops admitting anything new. What is in force
	// stays in force.
	NotAfter time.Time `json:"notAfter"`
	Keys
	PerKind map[order.Kind]int `json:"perKind,omitempty"` // thresholds that differ
}

func (p Policy) check() error {
	if p.Version == 0 || p.NotAfter.IsZero() {
		return errors.New("its version or notAfter is missing")
	}
	if err := p.Keys.check(p.Threshold); err != nil {
		return err
	}
	for kind, threshold := range p.PerKind {
		if err := p.Keys.check(threshold); err != nil {
			return fmt.Errorf("perKind %s: %w", kind, err)
		}
	}
	return nil
}

// Needs is how many authors must sign an order of a kind.
func (p Policy) Needs(kind order.Kind) int {
	if n, ok := p.PerKind[kind]; ok {
		return n
	}
	return p.Threshold
}

// Sign signs the policy with root keys.
func (p Policy) Sign(keys ...*Key) ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, fault.New(fault.BadInput, "sign policy", err.Error())
	}
	data, err := json.Marshal(p)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "sign policy", err)
	}
	return payload(PolicyType, data, keys...)
}

// ParsePolicy reads a policy that a person has written and nobody has signed.
func ParsePolicy(data []byte) (Policy, error) {
	var p Policy
	err := decode(data, &p)
	if err == nil {
		err = p.check()
	}
	if err != nil {
		return Policy{}, fault.New(fault.BadInput, "read policy", err.Error())
	}
	return p, nil
}

// Policy verifies a signed policy; k are the roots.
func (k Keys) Policy(envelope []byte) (*Policy, error) {
	if len(k.Authors) == 0 {
		return nil, fault.New(fault.Untrusted, "verify policy", "nobody is known here who could have signed it").
			WithHint("copy " + RootFile + " to where the certificates are")
	}
	data, _, err := k.open(PolicyType, envelope, k.Threshold)
	if err != nil {
		return nil, fault.Wrap(fault.Untrusted, "verify policy", err)
	}
	p, err := ParsePolicy(data)
	if err != nil {
		return nil, err
	}
	return &p, nil
}

// Order verifies an order: enough authors, each with a key of their own, have
// signed it. Time, audience and version are the caller's to compare.
func (p *Policy) Order(envelope []byte) (o order.Order, signers []string, err error) {
	if p == nil {
		return order.Order{}, nil, fault.New(fault.Untrusted, "verify order", "there is no policy that says whose signature counts").
			WithHint("set one with: chiba trust policy set FILE")
	}
	claimed, err := Peek(envelope) // which only says how many must sign; open says whether they did
	if err != nil {
		return order.Order{}, nil, err
	}
	data, signers, err := p.open(order.PayloadType, envelope, p.Needs(claimed.Kind))
	if err != nil {
		return order.Order{}, nil, err
	}
	o, err = order.Decode(data)
	return o, signers, err
}

// Expired reports whether the policy admits nothing new any longer.
func (p *Policy) Expired(now time.Time) bool { return now.After(p.NotAfter) }

// Fresh verifies an order that has just come: as Order does, and the policy is in
// date, the order is for the rack ("" asks nothing), and the source, if it comes
// with one, is the one that was signed. Whether its run may still begin Begins says.
func (p *Policy) Fresh(envelope, source []byte, rack string, now time.Time) (order.Order, error) {
	o, _, err := p.Order(envelope)
	if err != nil {
		return order.Order{}, err
	}
	switch {
	case p.Expired(now):
		return o, refuse("the policy of authors has expired", "have a new one signed: chiba trust policy set FILE")
	case rack != "" && !o.For(rack):
		return o, refuse("the order is not meant for rack "+rack, "")
	}
	return o, Matches(o, source)
}

// Matches refuses a script that is not the one of the order.
func Matches(o order.Order, source []byte) error {
	if o.Scripted() && o.Digest != order.Digest(source) {
		return refuse("the script is not the one that was signed", "")
	}
	return nil
}

// Begins refuses a run whose order has expired. What stands comes into force at any
// time: a rack may have been cut off for long.
func Begins(o order.Order, now time.Time) error {
	if now.After(o.NotAfter) {
		return refuse("the order has expired at "+o.NotAfter.UTC().Format(time.RFC3339), "sign it again: chiba apply")
	}
	return nil
}

func refuse(why, hint string) error {
	e := fault.New(fault.Untrusted, "verify order", why)
	if hint != "" {
		return e.WithHint(hint)
	}
	return e
}

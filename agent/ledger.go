package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/agent/bmc/openbmc"
	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/agent/takeover"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/trust/seal"
)

// ledger is the record of one BMC's take-over, in the spool, with what follows
// from it for a connection. It is safe for concurrent use.
type ledger struct {
	spool *spool.Spool
	key   *seal.Key
	rack  string
	pass  *passport
	uri   string // of the node, in its BMC's certificate

	others *companion
	shared func() // waits until the standby has what was kept

	keeping sync.Mutex // serialises changes
	mu      sync.Mutex
	record  takeover.Record
	terms   redfish.Terms
}

// Record is the record as it is now.
func (l *ledger) Record() takeover.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.record
}

// Terms are whom to believe and what to show now.
func (l *ledger) Terms() redfish.Terms {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.terms
}

// Keep changes the record. It is durable, and in force for new connections, when
// Keep returns.
func (l *ledger) Keep(change func(takeover.Record) takeover.Record) error {
	l.keeping.Lock()
	defer l.keeping.Unlock()
	next := change(l.Record())
	err := l.spool.Update(func(tx *spool.Tx) error {
		tx.PutJSON(spool.Takeovers, next.First, next)
		return nil
	})
	if err == nil {
		l.adopt(next)
		l.shared()
	}
	return err
}

// adopt puts a record in force. One that the other agent has kept is ours from here
// on: with our account, and its own as the partner's.
func (l *ledger) adopt(next takeover.Record) {
	if p := l.others.partner(); p.Account != "" && next.Account == p.Account && l.pass.issuer != nil {
		next = next.HandTo(l.pass.account, openbmc.Fingerprint(l.pass.issuer.Twin()), p)
	}
	client := l.pass.under(next.ProvenBy)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.record, l.terms = next, openbmc.Terms(next, l.uri, client)
}

// refresh takes over a renewed client certificate.
func (l *ledger) refresh() {
	l.keeping.Lock()
	defer l.keeping.Unlock()
	l.adopt(l.Record())
}

// replace begins the record of another BMC.
func (l *ledger) replace(next takeover.Record) error {
	return l.Keep(func(takeover.Record) takeover.Record { return next })
}

// Seal hides a secret from everybody but this agent.
func (l *ledger) Seal(s fleet.Secret) (string, error) {
	return seal.Seal(l.others.recipients(l.key.Recipient(l.rack)), useLedger, s)
}

// Open is what Seal has hidden.
func (l *ledger) Open(sealed string) (fleet.Secret, error) {
	return l.key.Open(sealed, l.rack, useLedger)
}

// Certificate is the agent's client certificate under the present twin.
func (l *ledger) Certificate() (*tls.Certificate, error) {
	cert, err := l.pass.current()
	l.refresh()
	return cert, err
}

// passport is the certificate by which the agent logs in on its BMCs, one for
// each twin of the rack's CA that is in use. Its keys lie sealed in the spool. It
// is safe for concurrent use.
type passport struct {
	account string
	issuer  *rackIssuer // nil: there is no CA, and no passport
	spool   *spool.Spool
	key     *seal.Key
	rack    string
	now     func() time.Time

	mu    sync.Mutex
	certs map[string]*tls.Certificate // by the twin's fingerprint
}

// What is sealed in the spool opens for nothing else.
const (
	useLedger = "login of a BMC that was taken over"
	useClient = "client certificate"
)

// keyPassport begins the keys of passports among the secrets, which are pins else.
const keyPassport = journal.Passport

// page is one certificate at rest.
type page struct {
	Chain  string `json:"chain"`
	Sealed string `json:"sealed"` // the key, PKCS 8 in PEM
}

// current is the certificate under the present twin, made or renewed if need be.
func (p *passport) current() (*tls.Certificate, error) {
	if p.issuer == nil {
		return nil, fault.New(fault.Unsupported, "get our certificate", "the rack has no authority")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	twin := openbmc.Fingerprint(p.issuer.Twin())
	have := p.known(twin)
	if have != nil && p.now().Before(have.Leaf.NotAfter.Add(-takeover.RenewBefore)) {
		return have, nil
	}
	fresh, at, err := p.issue(p.account)
	if err != nil {
		return nil, err
	}
	err = p.spool.Update(func(tx *spool.Tx) error {
		tx.PutJSON(spool.Secrets, keyPassport+twin, at)
		return nil
	})
	if err != nil {
		return nil, err
	}
	p.certs[twin] = fresh
	return fresh, nil
}

// under is the certificate for BMCs that trust this twin, or for new ones the
// present one; nil if there is none.
func (p *passport) under(twin string) *tls.Certificate {
	if p.issuer == nil {
		return nil
	}
	if present := openbmc.Fingerprint(p.issuer.Twin()); twin == "" || twin == present {
		cert, _ := p.current() // if it can't be kept there is none, and the next step says why
		return cert
	}
	p.mu.Lock()
	cert := p.known(twin)
	p.mu.Unlock()
	if cert != nil && p.now().After(cert.Leaf.NotAfter) {
		cert, _ = p.current() // who trusts the old twin trusts the present one, or Switch had not come
	}
	return cert
}

func (p *passport) known(twin string) *tls.Certificate {
	if cert := p.certs[twin]; cert != nil {
		return cert
	}
	var at page
	err := p.spool.View(func(tx *spool.Tx) error {
		if raw := tx.Get(spool.Secrets, keyPassport+twin); raw != nil {
			return json.Unmarshal(raw, &at)
		}
		return nil
	})
	if err != nil || at.Chain == "" {
		return nil
	}
	key, err := p.key.Open(at.Sealed, p.rack, useClient)
	if err != nil {
		return nil
	}
	cert, err := tls.X509KeyPair([]byte(at.Chain), []byte(key.Reveal()))
	if err != nil {
		return nil
	}
	p.certs[twin] = &cert
	return &cert
}

func (p *passport) issue(account string) (*tls.Certificate, page, error) {
	const op = "get our certificate"
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, page{}, fault.Wrap(fault.Internal, op, err)
	}
	chain, err := p.issuer.BMCClient(account, key.Public())
	if err != nil {
		return nil, page{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, page{}, fault.Wrap(fault.Internal, op, err)
	}
	text := fleet.NewSecret(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	sealed, err := seal.Seal([]seal.Recipient{p.key.Recipient(p.rack)}, useClient, text)
	if err != nil {
		return nil, page{}, err
	}
	cert, err := tls.X509KeyPair(chain, []byte(text.Reveal()))
	return &cert, page{Chain: string(chain), Sealed: sealed}, fault.Wrap(fault.Internal, op, err)
}

// acceptedKey is where it stands that a person has accepted another key than the
// catalogue's for a node.
func acceptedKey(e Entry) string { return spool.Key("accepted", string(e.Name), e.Pin) }

// acceptedAtKey is where it stands when that was.
func acceptedAtKey(e Entry) string { return spool.Key("accepted-at", string(e.Name), e.Pin) }

// approvedKey is where it stands when a person has let a BMC in, by its first key.
func approvedKey(first string) string { return spool.Key("approved", first) }

// openLedgers reads the records of all nodes. A record belongs to a node if the
// key in the catalogue, or the one that a person has accepted in its place, is one
// that the BMC has or had.
func openLedgers(disk *spool.Spool, entries []Entry) (map[fleet.NodeName]takeover.Record, error) {
	var all []takeover.Record
	found := make(map[fleet.NodeName]takeover.Record)
	err := disk.View(func(tx *spool.Tx) error {
		for _, raw := range tx.All(spool.Takeovers, "") {
			var r takeover.Record
			if err := json.Unmarshal(raw, &r); err != nil {
				return fault.Wrap(fault.Garbage, "read take-over", err)
			}
			all = append(all, r)
		}
		for _, e := range entries {
			pin := e.Pin
			if accepted := tx.Get(spool.Notes, acceptedKey(e)); accepted != nil {
				pin = string(accepted)
			}
			found[e.Name] = takeover.Met(pin)
			for _, r := range all {
				if r.Has(pin) {
					found[e.Name] = r
				}
			}
		}
		return nil
	})
	return found, err
}

package openbmc_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/agent/bmc/openbmc"
	"github.com/chiba-mesh/chiba/agent/takeover"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/bmctest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ourAccount = "chiba-a1"

// authority is a rack's CA.
type authority struct {
	tb   testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next *authority
	life time.Duration // of a certificate
	now  func() time.Time
}

func newAuthority(tb testing.TB) *authority {
	tb.Helper()
	key := newKey(tb)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "rack r01"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Unix(86400, 0), NotAfter: time.Now().Add(900 * 24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return &authority{tb: tb, cert: cert, key: key, life: 30 * 24 * time.Hour, now: time.Now}
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func asPEM(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}) }

func (a *authority) Twin() []byte { return asPEM(a.cert.Raw) }

// Next is the twin of another authority that is to come.
func (a *authority) Next() []byte {
	if a.next == nil {
		return nil
	}
	return a.next.Twin()
}

func (*authority) NodeURI(node string) string { return "spiffe://r01.s1.test/bmc/" + node }

func (a *authority) BMCServer(csr []byte, node string, _ ...netip.Addr) ([]byte, error) {
	block, _ := pem.Decode(csr)
	if block == nil {
		return nil, errors.New("no request")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	uri, err := url.Parse(a.NodeURI(node))
	if err != nil {
		return nil, err
	}
	return a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "BMC of " + node}, URIs: []*url.URL{uri}, NotBefore: a.now().Add(-time.Hour),
		NotAfter: a.now().Add(a.life), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, request.PublicKey)
}

func (a *authority) BMCClient(account string, public crypto.PublicKey) ([]byte, error) {
	return a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: account}, NotBefore: time.Unix(86400, 0),
		NotAfter: a.now().Add(a.life), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, public)
}

func (a *authority) sign(template *x509.Certificate, public crypto.PublicKey) ([]byte, error) {
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	return asPEM(der), err
}

// disk is what an agent keeps: it outlives its processes.
type disk struct {
	tb     testing.TB
	ca     *authority
	mu     sync.Mutex
	record takeover.Record
	terms  redfish.Terms
	logins []redfish.Credentials
	uri    string
	open   bool
	client *tls.Certificate
	by     string // the twin under which client was signed
	// kill, if set, is asked before and after whatever lasts.
	kill func(where string)
}

func (d *disk) Record() takeover.Record {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.record
}

func (d *disk) Keep(change func(takeover.Record) takeover.Record) error {
	d.may("before a note")
	d.mu.Lock()
	d.record = change(d.record)
	d.settle()
	d.mu.Unlock()
	d.may("after a note")
	return nil
}

func (d *disk) settle() {
	d.terms = openbmc.Terms(d.record, d.ca.NodeURI("n1"), d.client)
}

func (d *disk) may(where string) {
	if d.kill != nil {
		d.kill(where)
	}
}

func (d *disk) Terms() redfish.Terms {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.terms
}

// renew is what an agent does when its own certificate nears its end.
func (d *disk) renew() {
	d.mu.Lock()
	d.client = nil
	d.mu.Unlock()
	if _, err := d.Certificate(); err != nil {
		d.tb.Error(err)
	}
}

func (*disk) Seal(s fleet.Secret) (string, error)      { return "sealed:" + s.Reveal(), nil }
func (*disk) Open(sealed string) (fleet.Secret, error) { return fleet.NewSecret(sealed[7:]), nil }

func (d *disk) Certificate() (*tls.Certificate, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if twin := openbmc.Fingerprint(d.ca.Twin()); d.client == nil || d.by != twin {
		key := newKey(d.tb)
		chain, err := d.ca.BMCClient(d.record.Account, key.Public())
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(chain)
		d.client, d.by = &tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}, twin
		d.settle()
	}
	return d.client, nil
}

func (d *disk) Candidates(string) ([]redfish.Credentials, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.logins, nil
}

func (d *disk) Propose(_ string, next redfish.Credentials) error {
	d.may("before a login is kept")
	d.mu.Lock()
	d.logins = append([]redfish.Credentials{next}, d.logins...)
	d.mu.Unlock()
	d.may("after a login is kept")
	return nil
}

func (d *disk) Prove(_ string, proven redfish.Credentials) error {
	d.may("before a login is proven")
	d.mu.Lock()
	d.logins = []redfish.Credentials{proven}
	d.mu.Unlock()
	d.may("after a login is proven")
	return nil
}

func (*disk) Store(string, string, fleet.Secret) error { return nil }

func (d *disk) Save(_, uri string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.uri, d.open = uri, true
	return nil
}

func (d *disk) Load(string) (string, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.uri, d.open, nil
}

func (d *disk) Forget(string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.uri, d.open = "", false
	return nil
}

// world is a BMC and what an agent keeps of it.
type world struct {
	t    testing.TB
	bmc  *bmcsim.BMC
	base string
	disk *disk
	ca   *authority
	away atomic.Int64 // how far the time has gone on

	lane   *bmc.Lane
	driver *openbmc.Driver
	did    []string // steps
}

func newWorld(tb testing.TB, sim bmcsim.Config) *world {
	tb.Helper()
	w := &world{t: tb, ca: newAuthority(tb)}
	sim.Now = w.now
	b, base := bmctest.Start(tb, sim)
	w.bmc, w.base = b, base
	ca := w.ca
	ca.now = w.now
	w.disk = &disk{
		tb: tb, ca: ca, record: takeover.Met(b.Pin()).Take("root", ourAccount),
		logins: []redfish.Credentials{{User: "root", Password: fleet.NewSecret(bmcsim.DefaultPassword)}},
	}
	w.disk.settle()
	w.start()
	return w
}

// now is the time of everybody.
func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.away.Load())) }

// later lets time pass.
func (w *world) later(d time.Duration) { w.away.Store(int64(d)) }

// start is a new process of the agent: it knows nothing but what is on disk.
func (w *world) start() {
	w.t.Helper()
	l, err := bmc.New(bmc.Config{
		Node: "n1", Vault: w.disk, Poll: 5 * time.Millisecond, Rest: time.Millisecond,
		BMC: redfish.Config{
			BMC: "n1", Address: strings.TrimPrefix(w.base, "https://"), Terms: w.disk.Terms, Sessions: w.disk, Context: "chiba:r01:a1",
			Limits: redfish.Limits{Read: 5 * time.Second, Write: 5 * time.Second},
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = l.Close(ctx)
	})
	w.lane = l
	w.driver = &openbmc.Driver{
		Node: "n1", BMC: killable{l.Hand(bmc.Inventory), w.disk}, Issuer: w.ca, Ledger: w.disk, Vault: w.disk, Now: w.now,
		Wait: func(ctx context.Context, _ time.Duration) bool { return ctx.Err() == nil },
	}
}

// killable asks before and after each write whether the process dies.
type killable struct {
	bmc.Hand
	disk *disk
}

func (k killable) around(what string, do func() error) error {
	k.disk.may("before " + what)
	err := do()
	k.disk.may("after " + what)
	return err
}

func (k killable) Patch(ctx context.Context, uri string, body any) error {
	return k.around("PATCH "+uri, func() error { return k.Hand.Patch(ctx, uri, body) })
}

func (k killable) Post(ctx context.Context, uri string, body any) (reply *redfish.Reply, err error) {
	err = k.around("POST "+uri, func() error {
		reply, err = k.Hand.Post(ctx, uri, body)
		return err
	})
	return reply, err
}

func (k killable) Delete(ctx context.Context, uri string) error {
	return k.around("DELETE "+uri, func() error { return k.Hand.Delete(ctx, uri) })
}

func (k killable) LogIn(ctx context.Context, c redfish.Credentials) error {
	return k.around("a login", func() error { return k.Hand.LogIn(ctx, c) })
}

func (k killable) LogOut(ctx context.Context) error {
	return k.around("the logout", func() error { return k.Hand.LogOut(ctx) })
}

// advance does steps until there is none to do now, or one fails for good.
func (w *world) advance() error {
	ctx := w.t.Context()
	for range 60 {
		seen, err := w.driver.Look(ctx)
		if err != nil {
			return err
		}
		var step takeover.Step
		_ = w.disk.Keep(func(r takeover.Record) takeover.Record {
			r = r.Absorb(seen)
			step, _ = takeover.Next(w.now(), seen, r)
			return r.Begin(step)
		})
		if step == takeover.Nothing {
			return nil
		}
		w.did = append(w.did, string(step))
		err = w.driver.Do(ctx, step)
		_ = w.disk.Keep(func(r takeover.Record) takeover.Record {
			if err != nil {
				return r.Failed(w.now(), step, openbmc.Failure(err))
			}
			return r.Done(step)
		})
	}
	return errors.New("it goes round in circles: " + strings.Join(w.did, " "))
}

func (w *world) trust() fleet.BMCTrust { return takeover.Trust(w.now(), w.disk.Record()) }

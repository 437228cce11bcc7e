package ca_test

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
)

// A root is changed under a running mesh: who knows the old bundle believes what the
// new root has signed at once, and takes the new bundle because the old one vouches
// for it; after Retire the old root is believed no more.
func TestRootRotation(t *testing.T) {
	dir := t.TempDir()
	root, err := ca.OpenRoot(filepath.Join(dir, "root"))
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "site")
	agent := trust.Identity{Role: trust.Agent, Domain: trust.Domain{Rack: "r17"}, Name: "a17"}
	site := func() *ca.Site {
		if ensureErr := root.EnsureSite(at, "osl1"); ensureErr != nil {
			t.Fatal(ensureErr)
		}
		s, openErr := ca.OpenSite(at)
		if openErr != nil {
			t.Fatal(openErr)
		}
		return s
	}
	before := site()
	old := credentials(t, before, agent)
	if len(old.Pins()) != 2 {
		t.Errorf("pins %v: the current and the next root are pinned", old.Pins())
	}
	if err = root.Rotate(); err != nil {
		t.Fatal(err)
	}
	after := site()
	coordinator := credentials(t, after, trust.Identity{Role: trust.Coordinator, Name: "c1"})
	if clientErr, serverErr := handshake(t, old.Client(), coordinator.Server(trust.Agent)); clientErr != nil || serverErr != nil {
		t.Fatalf("in the middle of the rotation: %v, %v", clientErr, serverErr)
	}
	chain, err := after.Issue(agent, old.Certificate.Leaf.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	renewed, err := old.Renewed(chain, after.Bundle())
	if err != nil || len(renewed.Pins()) != 3 {
		t.Fatalf("renewed: %v, pins %v", err, renewed.Pins())
	}
	if err = root.Rotate(); !fault.Is(err, fault.Conflict) {
		t.Errorf("a rotation in a rotation: %v", err)
	}
	if err = root.Retire(); err != nil {
		t.Fatal(err)
	}
	if root, err = ca.OpenRoot(filepath.Join(dir, "root")); err != nil {
		t.Fatal(err)
	}
	if renewed, err = renewed.Renewed(chain, site().Bundle()); err != nil || len(renewed.Pins()) != 2 {
		t.Fatalf("after it: %v, pins %v", err, renewed.Pins())
	}
	if err, _ := handshake(t, renewed.Client(), credentials(t, before, trust.Identity{Role: trust.Coordinator, Name: "c2"}).Server(trust.Agent)); err == nil {
		t.Error("what the retired root has signed is believed")
	}
}

// A coordinator can't put a root of its own into anybody's bundle.
func TestForeignRootsAreNotTaken(t *testing.T) {
	ours, foreign := authority(t, t.TempDir()), authority(t, t.TempDir())
	creds := credentials(t, ours, trust.Identity{Role: trust.Agent, Name: "a"})
	mixed := append(ours.Bundle(), foreign.Bundle()...)
	if got, err := trust.Successors(creds.Anchors, mixed); err != nil || len(got) != 2 {
		t.Errorf("of both: %d, %v", len(got), err)
	}
	if _, err := trust.Successors(creds.Anchors, foreign.Bundle()); !fault.Is(err, fault.Untrusted) {
		t.Errorf("of theirs alone: %v", err)
	}
}

// What is not of our key, our name, or our root, does not become our certificate.
func TestRenewalsThatAreNotTaken(t *testing.T) {
	ours, foreign := authority(t, t.TempDir()), authority(t, t.TempDir())
	id := trust.Identity{Role: trust.Agent, Domain: trust.Domain{Rack: "r17"}, Name: "a17"}
	creds := credentials(t, ours, id)
	key := creds.Certificate.Leaf.PublicKey
	other := id
	other.Name = "a18"
	issue := func(by *ca.Site, id trust.Identity, key any) []*x509.Certificate {
		chain, err := by.Issue(id, key)
		if err != nil {
			t.Fatal(err)
		}
		return chain
	}
	for name, chain := range map[string][]*x509.Certificate{
		"nothing":      nil,
		"another key":  issue(ours, id, newKey(t).Public()),
		"another name": issue(ours, other, key),
		"another root": issue(foreign, id, key),
	} {
		if got, err := creds.Renewed(chain, ours.Bundle()); !fault.Is(err, fault.Untrusted) {
			t.Errorf("%s: %v, %v", name, got.Certificate.Leaf, err)
		}
	}
}

// The key of a rack's CA changes in three steps, each of which survives a restart:
// at no time is there a BMC that would refuse what the agent shows.
func TestRackChangesItsKey(t *testing.T) {
	site := authority(t, t.TempDir())
	dir, domain := t.TempDir(), trust.Domain{Site: "osl1", Rack: "r17"}
	open := func() *ca.Rack {
		r, err := ca.OpenRack(dir, domain, nil)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := open()
	signed(t, site, r)
	key := newKey(t)
	store := r.Twins() // of a BMC
	works := func(step string) {
		t.Helper()
		r = open()
		text, err := r.BMCClient("chiba-a", key.Public())
		if err != nil {
			t.Fatal(err)
		}
		if err := goVerify(certs(t, text), store, x509.ExtKeyUsageClientAuth); err != nil {
			t.Errorf("%s: %v", step, err)
		}
		if err := goVerify(certs(t, text), trust.SelfSigned(site.Bundle()), x509.ExtKeyUsageClientAuth); err != nil {
			t.Errorf("%s, by the root: %v", step, err)
		}
	}
	cert := bmc(t, r, "node-04") // as it was before
	if err := r.Switch(); !fault.Is(err, fault.Conflict) {
		t.Errorf("switch without a next key: %v", err)
	}
	if err := r.Rekey(); err != nil {
		t.Fatal(err)
	}
	works("a new key is made")
	if len(r.Twins()) != 2 || !r.Twins()[0].Equal(store[0]) {
		t.Error("two twins are to be uploaded, the old one still issues")
	}
	store = r.Twins()
	signed(t, site, r)
	if err := r.Switch(); err != nil {
		t.Fatal(err)
	}
	works("switched")
	if err := r.Rekey(); !fault.Is(err, fault.Conflict) {
		t.Errorf("a change in a change: %v", err)
	}
	if err := goVerify([]*x509.Certificate{cert.Leaf}, r.Twins(), x509.ExtKeyUsageServerAuth); err != nil {
		t.Errorf("a BMC with its old certificate: %v", err)
	}
	if err := r.Retire(); err != nil {
		t.Fatal(err)
	}
	works("retired")
	store = r.Twins()
	works("the BMC has the new twin alone")
	if err := goVerify([]*x509.Certificate{cert.Leaf}, r.Twins(), x509.ExtKeyUsageServerAuth); err == nil {
		t.Error("a certificate of the old key is believed")
	}
}

// While nobody is reached the rack's CA goes on below its twin.
// Until it issues a new key can be given up; then it can't.
func TestRackAbortsAChangeOfKey(t *testing.T) {
	dir, domain := t.TempDir(), trust.Domain{Site: "osl1", Rack: "r17"}
	r, err := ca.OpenRack(dir, domain, nil)
	if err != nil {
		t.Fatal(err)
	}
	first := string(r.Twin())
	if err = errors.Join(r.Abort(), r.Rekey()); err != nil || r.Next() == nil || r.Before() != nil {
		t.Fatalf("next %s, %v", r.Next(), err)
	}
	given := string(r.Next())
	if err = r.Abort(); err != nil || r.Next() != nil || string(r.Twin()) != first || r.Generation() != 1 {
		t.Errorf("aborted: %v, generation %d", err, r.Generation())
	}
	if again, openErr := ca.OpenRack(dir, domain, nil); openErr != nil || again.Next() != nil {
		t.Errorf("after a restart: %v", openErr)
	}
	if err = errors.Join(r.Rekey(), r.Switch()); err != nil || string(r.Twin()) == given || string(r.Before()) != first || r.Generation() != 2 {
		t.Errorf("the next change: %v, generation %d", err, r.Generation())
	}
	if err = r.Abort(); !fault.Is(err, fault.Conflict) {
		t.Errorf("aborted when it issues: %v", err)
	}
	if err = errors.Join(r.Retire(), r.Abort()); err != nil || r.Before() != nil {
		t.Errorf("retired: %v", err)
	}
}

func TestRackIssuesWhileItIsCutOff(t *testing.T) {
	site := authority(t, t.TempDir())
	now := time.Now()
	r, err := ca.OpenRack(t.TempDir(), trust.Domain{Site: "osl1", Rack: "r17"}, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string, length int) {
		t.Helper()
		text, err := r.BMCServer(csr(t, newKey(t), nil), "n1")
		if err != nil {
			t.Fatal(err)
		}
		chain := certs(t, text)
		if err := goVerifyAt(chain, r.Twins(), x509.ExtKeyUsageServerAuth, now); err != nil || len(chain) != length {
			t.Errorf("%s: a chain of %d, %v", when, len(chain), err)
		}
	}
	check("never signed", 1)
	signed(t, site, r)
	check("signed", 3)
	if _, due, _ := r.CSR(); due {
		t.Error("it asks again at once")
	}
	now = now.Add(8 * 24 * time.Hour)
	if _, due, _ := r.CSR(); !due {
		t.Error("it does not ask after a week")
	}
	now = now.Add(100 * 24 * time.Hour)
	check("after a quarter", 1)
}

func TestThreat27SiteDoesNotSignInTheWrongYear(t *testing.T) {
	site := authority(t, t.TempDir())
	for _, year := range []int{1970, 2100} {
		_, err := site.At(in(year)).Issue(trust.Identity{Role: trust.Agent, Name: "a"}, newKey(t).Public())
		if !fault.Is(err, fault.Conflict) || !strings.Contains(fault.HintOf(err), "clock") {
			t.Errorf("in %d: %v", year, err)
		}
	}
}

// Certificates never outlive who has issued them.
func TestNothingOutlivesItsIssuer(t *testing.T) {
	site := authority(t, t.TempDir())
	late := site.At(func() time.Time { return site.NotAfter().Add(-time.Hour) })
	chain, err := late.Issue(trust.Identity{Role: trust.Operator, Name: "ada"}, newKey(t).Public())
	if err != nil || !chain[0].NotAfter.Equal(site.NotAfter()) {
		t.Errorf("until %v, %v", chain[0].NotAfter, err)
	}
}

func TestWhatASiteDoesNotSign(t *testing.T) {
	site := authority(t, t.TempDir())
	for _, id := range []trust.Identity{
		{Role: trust.BMC, Domain: trust.Domain{Rack: "r17"}, Name: "n1"},
		{Role: trust.BMCClient, Domain: trust.Domain{Rack: "r17"}, Name: "root"},
		{Role: trust.Coordinator, Domain: trust.Domain{Site: "other"}, Name: "c1"},
		{Role: trust.Coordinator, Domain: trust.Domain{Rack: "r17"}, Name: "c1"},
		{Role: "root", Name: "x"},
		{Role: trust.Agent, Domain: trust.Domain{Rack: "a.b"}, Name: "x"},
	} {
		if chain, err := site.Issue(id, newKey(t).Public()); err == nil || chain != nil {
			t.Errorf("%s was issued", id.URI())
		}
	}
	if _, err := site.SignRack(csr(t, newKey(t), nil), trust.Domain{Site: "other", Rack: "r17"}); !fault.Is(err, fault.Denied) {
		t.Errorf("another site's rack: %v", err)
	}
	if _, err := site.SignRack(csr(t, newKey(t), nil), trust.Domain{Site: "osl1"}); !fault.Is(err, fault.Denied) {
		t.Errorf("the site itself: %v", err)
	}
}

// A state directory of an older build is named as such.
func TestAnOlderBuildsAuthority(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ca-key.pem"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := ca.Open(dir, "dev")
	if !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "older build") || !strings.Contains(fault.HintOf(err), "--state") {
		t.Errorf("%v, hint %q", err, fault.HintOf(err))
	}
}

// A crash while an authority is made leaves one that is made again or opened, and a
// damaged one is said to be.
func TestHalfMadeAuthorities(t *testing.T) {
	dir := t.TempDir()
	authority(t, dir)
	if err := os.Remove(filepath.Join(dir, "root", "current")); err != nil {
		t.Fatal(err)
	}
	authority(t, dir) // the generations were whole
	if err := os.WriteFile(filepath.Join(dir, "root", "current"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Open(dir, "osl1"); !fault.Is(err, fault.BadInput) || !strings.Contains(fault.HintOf(err), "restore") {
		t.Errorf("a damaged root: %v", err)
	}
	rackDir, domain := t.TempDir(), trust.Domain{Site: "osl1", Rack: "r17"}
	if _, err := ca.OpenRack(rackDir, domain, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.OpenRack(rackDir, trust.Domain{Site: "osl1", Rack: "r18"}, nil); !fault.Is(err, fault.BadInput) {
		t.Errorf("another rack's: %v", err)
	}
	if err := os.Remove(filepath.Join(rackDir, "1", "key.pem")); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.OpenRack(rackDir, domain, nil); !fault.Is(err, fault.BadInput) {
		t.Errorf("without its key: %v", err)
	}
}

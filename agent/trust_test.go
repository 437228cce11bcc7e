package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
)

// trusting is an agent's trust in a directory with credentials of a site.
type trusting struct {
	*standingTrust
	t    *testing.T
	site *ca.Site
	dir  string
	disk *spool.Spool
}

func newTrusting(t *testing.T) *trusting {
	t.Helper()
	site, err := ca.Open(filepath.Join(t.TempDir(), "ca"), "osl1")
	if err != nil {
		t.Fatal(err)
	}
	w := &trusting{t: t, site: site, dir: t.TempDir()}
	if err := site.Ensure(w.dir, trust.Identity{Role: trust.Agent, Domain: trust.Domain{Rack: "r17"}, Name: "a17"}); err != nil {
		t.Fatal(err)
	}
	w.start()
	t.Cleanup(func() { _ = w.disk.Close() })
	return w
}

// start opens everything again, as a restart does.
func (w *trusting) start() {
	w.t.Helper()
	var err error
	if w.disk != nil {
		_ = w.disk.Close()
	}
	if w.disk, err = spool.Open(filepath.Join(w.dir, spoolFile), spool.Options{}); err != nil {
		w.t.Fatal(err)
	}
	cfg := Config{Name: "a17", Rack: "r17", Site: "osl1", State: w.dir, Log: slog.New(slog.DiscardHandler)}
	if w.standingTrust, err = openTrust(cfg, w.disk); err != nil {
		w.t.Fatal(err)
	}
}

// answer is what a coordinator answers to q.
func (w *trusting) answer(q *pb.Renew) *pb.Renewed {
	w.t.Helper()
	m := &pb.Renewed{}
	for _, c := range w.site.Bundle() {
		m.Bundle = append(m.Bundle, c.Raw)
	}
	if q.GetAgent() {
		if _, err := w.join.Ask(w.joinFile()); err != nil {
			w.t.Fatal(err)
		}
		m.JoinCounter = w.join.Counter + 1
		id, err := w.endpoint.Credentials().Identity()
		if err != nil {
			w.t.Fatal(err)
		}
		chain, err := w.site.Issue(id, w.endpoint.Credentials().Certificate.Leaf.PublicKey)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, c := range chain {
			m.Agent = append(m.Agent, c.Raw)
		}
	}
	if csr := q.GetRackCsr(); csr != nil {
		chain, err := w.site.SignRack(csr, w.rack.Domain())
		if err != nil {
			w.t.Fatal(err)
		}
		for _, c := range chain {
			m.Rack = append(m.Rack, c.Raw)
		}
	}
	return m
}

func (w *trusting) leaf() string {
	return w.endpoint.Credentials().Certificate.Leaf.SerialNumber.String()
}

// What is due is asked for, once a minute; the answer is on disk before it is used,
// and a restart finds it.
func TestRenewalIsKept(t *testing.T) {
	w := newTrusting(t)
	q := w.Renewal()
	if q == nil || q.GetAgent() || len(q.GetRackCsr()) == 0 {
		t.Fatalf("a fresh agent asks for its rack's CA alone: %v", q)
	}
	if again := w.Renewal(); again != nil {
		t.Errorf("it asks again at once: %v", again)
	}
	before := w.leaf()
	w.Renewed(w.answer(&pb.Renew{Agent: true, RackCsr: q.GetRackCsr()}))
	after := w.leaf()
	if after == before {
		t.Error("it was not taken")
	}
	w.start()
	if w.leaf() != after {
		t.Error("a restart has lost it")
	}
	if _, good := w.rack.Chain(); !good {
		t.Error("a restart has lost the signature of the rack's CA")
	}
	if q := w.Renewal(); q != nil {
		t.Errorf("nothing is due: %v", q)
	}
}

func TestRenewalIsDueAtHalfLife(t *testing.T) {
	w := newTrusting(t)
	w.Renewed(w.answer(&pb.Renew{RackCsr: w.Renewal().GetRackCsr()}))
	leaf := w.endpoint.Credentials().Certificate.Leaf
	for _, c := range []struct {
		at   time.Time
		want bool
	}{{trust.HalfLife(leaf).Add(-time.Minute), false}, {trust.HalfLife(leaf).Add(time.Minute), true}, {leaf.NotAfter.Add(time.Hour), true}} {
		w.asked = time.Time{}
		clock, err := trust.OpenClock(filepath.Join(t.TempDir(), "time"), func() time.Time { return c.at })
		if err != nil {
			t.Fatal(err)
		}
		w.clock = clock
		if got := w.Renewal().GetAgent(); got != c.want {
			t.Errorf("at %s: due %v", c.at, got)
		}
	}
}

// A crash between the two files of a renewal leaves credentials that load.
func TestRenewalIsCutInTheMiddle(t *testing.T) {
	w := newTrusting(t)
	before := w.leaf()
	if err := os.Mkdir(filepath.Join(w.dir, trust.CertFile+".new"), 0o700); err != nil { // the second file can't be written
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, trust.CertFile+".new", "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.Renewed(w.answer(&pb.Renew{Agent: true}))
	if w.leaf() != before {
		t.Error("what is not on disk is in use")
	}
	w.start()
	if w.leaf() != before {
		t.Error("it is neither the old one nor the new one")
	}
}

func TestRenewalsThatAreNotOurs(t *testing.T) {
	w, other := newTrusting(t), newTrusting(t)
	before := w.leaf()
	for name, m := range map[string]*pb.Renewed{
		"another mesh's": other.answer(&pb.Renew{Agent: true, RackCsr: other.Renewal().GetRackCsr()}),
		"garbage":        {Agent: [][]byte{{1}}},
		"a refusal":      {Refusal: &pb.Refusal{Kind: string(fault.Denied), Error: "no"}},
	} {
		w.Renewed(m)
		if _, good := w.rack.Chain(); good || w.leaf() != before {
			t.Errorf("%s was taken", name)
		}
	}
}

// The deny list outlives a restart; what was denied here stays until the coordinators
// have decided on it, and ends with theirs.
func TestThreat38LocalDenialsSurvive(t *testing.T) {
	w := newTrusting(t)
	if err := os.WriteFile(filepath.Join(w.dir, ConfigFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	spki := "spki/" + strings.Repeat("ab", 32)
	for _, subject := range []string{"coordinator/c2", spki} {
		if _, err := denyHere(w.dir, subject, "stolen"); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(when, subject string, local int, denied bool) {
		t.Helper()
		id := trust.Identity{Role: trust.Coordinator, Domain: trust.Domain{Site: "osl1"}, Name: strings.TrimPrefix(subject, "coordinator/")}
		if err := w.denials.Check(nil, id); (err != nil) != denied {
			t.Errorf("%s: %s denied: %v", when, subject, err)
		}
		if len(w.Denied()) != local {
			t.Errorf("%s: denied here %v", when, w.Denied())
		}
	}
	w.start()
	expect("put down while it was stopped", "coordinator/c2", 2, true)
	w.start()
	expect("after a restart", "coordinator/c2", 2, true)
	if err := w.heard(&pb.Desired{Denied: []*pb.Denial{{Subject: spki}, {Subject: "coordinator/c9"}}, Settled: []string{spki}}); err != nil {
		t.Fatal(err)
	}
	w.start()
	expect("the mesh has decided on one", "coordinator/c2", 1, true)
	expect("the mesh has another", "coordinator/c9", 1, true)
	if err := w.heard(&pb.Desired{}); err != nil {
		t.Fatal(err)
	}
	w.start()
	expect("the mesh has allowed it", "coordinator/c9", 1, false)
	expect("the mesh does not decide on this one", "coordinator/c2", 1, true)
}

// A coordinator that is denied loses the session that it has.
func TestADeniedCoordinatorIsLeft(t *testing.T) {
	w := newTrusting(t)
	at := t.TempDir()
	if err := w.site.Ensure(at, trust.Identity{Role: trust.Coordinator, Name: "c1"}, "127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	creds, err := trust.Load(at)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Still(creds.Chain()); err != nil {
		t.Fatal(err)
	}
	if err := w.heard(&pb.Desired{Denied: []*pb.Denial{{Subject: "coordinator/c1", Reason: "stolen"}}}); err != nil {
		t.Fatal(err)
	}
	if err := w.Still(creds.Chain()); !fault.Is(err, fault.Untrusted) || !strings.Contains(err.Error(), "stolen") {
		t.Errorf("it is believed: %v", err)
	}
}

// A time that no coordinator can have does not end the agent's own certificate.
func TestThreat27CoordinatorInTheYear2100(t *testing.T) {
	w := newTrusting(t)
	w.Time(time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC))
	if now := w.clock.Now(); now.After(time.Now().Add(time.Minute)) {
		t.Errorf("it is taken for %s", now)
	}
	w.Time(time.Now().Add(10 * time.Minute))
	if behind := w.clock.Behind(); behind < 9*time.Minute {
		t.Errorf("ten minutes are not taken: behind by %s", behind)
	}
}

// The certificate must be the agent's own.
func TestCertificateOfAnother(t *testing.T) {
	w := newTrusting(t)
	for field, edit := range map[string]func(*Config){
		"name": func(c *Config) { c.Name = "a18" },
		"rack": func(c *Config) { c.Rack = "r18" },
		"site": func(c *Config) { c.Site = "osl2" },
	} {
		cfg := w.cfg
		edit(&cfg)
		if _, err := openTrust(cfg, w.disk); !fault.Is(err, fault.BadInput) || !strings.Contains(err.Error(), "its "+field+" is") {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := denyHere(t.TempDir(), "agent/a", "x"); !fault.Is(err, fault.BadInput) {
		t.Errorf("a directory that is none: %v", err)
	}
	if _, err := denyHere(w.dir, "nobody", "x"); !fault.Is(err, fault.BadInput) {
		t.Errorf("nobody: %v", err)
	}
}

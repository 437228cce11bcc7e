package agent

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
	"github.com/chiba-mesh/chiba/trust/seal"
	"github.com/chiba-mesh/chiba/trust/sign/signtest"
)

func recoveryKey(t *testing.T) *seal.Key {
	t.Helper()
	key, err := seal.OpenKey(filepath.Join(t.TempDir(), "recovery.key"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// joinedDir is the state directory of an agent that has joined and has not run.
func joinedDir(t *testing.T, site *ca.Site, rack, name string) string {
	t.Helper()
	dir := t.TempDir()
	if err := site.Ensure(dir, trust.Identity{Role: trust.Agent, Domain: trust.Domain{Rack: rack}, Name: name}); err != nil {
		t.Fatal(err)
	}
	if _, err := signtest.New(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func siteCA(t *testing.T) *ca.Site {
	t.Helper()
	site, err := ca.Open(filepath.Join(t.TempDir(), "ca"), "s1")
	if err != nil {
		t.Fatal(err)
	}
	return site
}

// An agent takes its BMC over and loses its whole directory. By a copy of its escrow a
// new one is let in by the BMC as the old one was, at once and without a password.
func TestALostAgentIsRecovered(t *testing.T) {
	site, key := siteCA(t), recoveryKey(t)
	o := newOwner(t, bmcsim.Config{})
	o.cfg.State, o.cfg.Recovery = joinedDir(t, site, "r1", "a1"), key.Text()
	o.start()
	o.taken()
	path := filepath.Join(o.cfg.State, EscrowFile)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	whole := func() bool { // the last step is in it
		now, err := o.agent.belongings()
		if err != nil {
			t.Fatal(err)
		}
		text, _ := os.ReadFile(path)
		var e escrowed
		if json.Unmarshal(text, &e) != nil {
			return false
		}
		plain, err := key.Open(e.Sealed, "r1", escrowUse)
		return err == nil && plain.Reveal() == string(now)
	}
	for over := time.After(20 * time.Second); !whole(); {
		select {
		case <-tick.C:
		case <-over:
			t.Fatal("the escrow is never up to date")
		}
	}
	o.stop()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"PRIVATE", "0penBmc", "Sealed", "rack-ca", "chain.pem"} {
		if strings.Contains(string(text), secret) {
			t.Errorf("the escrow shows %q", secret)
		}
	}
	copied := filepath.Join(t.TempDir(), "copy")
	if err = os.WriteFile(copied, text, 0o600); err != nil {
		t.Fatal(err)
	}

	o.cfg.State = joinedDir(t, site, "r1", "a1")
	bmcs, at, err := recoverState(o.cfg.State, copied, key)
	if err != nil || bmcs != 1 || time.Since(at) > time.Minute {
		t.Fatalf("%d BMCs as of %s: %v", bmcs, at, err)
	}
	o.bmc.ResetStats()
	o.start()
	o.until("ours again", func(n fleet.Node) bool { return n.Trust.Done() && n.Trust.Takeover == fleet.TakeoverStrict })
	if stats := o.bmc.Stats(); stats.Logins+stats.Writes > 0 {
		t.Errorf("it had %d logins and %d writes to make: %v", stats.Logins, stats.Writes, o.bmc.Requests())
	}
	if _, _, err := recoverState(o.cfg.State, copied, key); !fault.Is(err, fault.Conflict) || fault.HintOf(err) == "" {
		t.Errorf("into a directory that has run: %v", err)
	}
}

// Anybody can seal to a public key: what is not the agent's own word is not taken, and
// nothing is written.
func TestEscrowsThatAreRefused(t *testing.T) {
	site, other, key := siteCA(t), siteCA(t), recoveryKey(t)
	escrow := func(site *ca.Site, rack, name string, to *seal.Key) []byte {
		t.Helper()
		dir := joinedDir(t, site, rack, name)
		a := &Agent{cfg: Config{Rack: fleet.RackName(rack), State: dir, Recovery: to.Text()}, now: time.Now}
		if err := a.writeEscrow([]byte(`{"ca":{"../x":"AAAA"}}`)); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, EscrowFile))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	good := escrow(site, "r1", "a1", key)
	edit := func(change func(*escrowed)) []byte {
		var e escrowed
		if err := json.Unmarshal(good, &e); err != nil {
			t.Fatal(err)
		}
		change(&e)
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	forged, err := seal.Seal([]seal.Recipient{key.Recipient("r1")}, escrowUse, fleet.NewSecret("{}"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text []byte
		key  *seal.Key
		kind fault.Kind
	}{
		"of another agent":         {escrow(site, "r1", "a2", key), key, fault.Untrusted},
		"of another rack":          {escrow(site, "r2", "a1", key), key, fault.Untrusted},
		"of another mesh":          {escrow(other, "r1", "a1", key), key, fault.Untrusted},
		"sealed by somebody":       {edit(func(e *escrowed) { e.Sealed = forged }), key, fault.Untrusted},
		"without a proof":          {edit(func(e *escrowed) { e.Proof = nil }), key, fault.Garbage},
		"with another's key":       {good, recoveryKey(t), fault.Denied},
		"a file outside":           {good, key, fault.Garbage},
		"no escrow":                {[]byte("chiba"), key, fault.Garbage},
		"larger than any can be":   {append(good, make([]byte, maxEscrow)...), key, fault.BadInput},
		"nothing":                  {nil, key, fault.Garbage},
		"cut off in the middle":    {good[:len(good)/2], key, fault.Garbage},
		"for another of this site": {escrow(site, "r1", "a3", recoveryKey(t)), key, fault.Untrusted},
	} {
		dir, file := joinedDir(t, site, "r1", "a1"), filepath.Join(t.TempDir(), "escrow")
		if err := os.WriteFile(file, c.text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := recoverState(dir, file, c.key); !fault.Is(err, c.kind) {
			t.Errorf("%s: %v, of kind %s", name, err, fault.KindOf(err))
		}
		for _, left := range []string{spoolFile, rackDir, sealFile, "x"} {
			if _, err := os.Stat(filepath.Join(dir, left)); err == nil {
				t.Errorf("%s: it leaves %s", name, left)
			}
		}
	}
	if _, _, err := recoverState(t.TempDir(), "escrow", key); !fault.Is(err, fault.BadInput) || !strings.Contains(fault.HintOf(err), "join") {
		t.Errorf("into a directory that has not joined: %v", err)
	}
}

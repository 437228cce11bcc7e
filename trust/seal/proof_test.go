package seal_test

import (
	"crypto/tls"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
	"github.com/chiba-mesh/chiba/trust/seal"
)

// A sealed secret opens for its rack, its epoch and its use alone.
func TestThreat32SecretMoved(t *testing.T) {
	k := key(t, filepath.Join(t.TempDir(), "k"))
	r := k.Recipient("r1")
	text, err := seal.Seal([]seal.Recipient{r}, use, fleet.NewSecret(canary))
	if err != nil {
		t.Fatal(err)
	}
	old := r
	old.Epoch--
	stale, err := seal.Seal([]seal.Recipient{old}, use, fleet.NewSecret(canary))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ text, rack, use string }{
		"another rack":   {text, "r2", use},
		"another script": {text, "r1", strings.Replace(use, `"s"`, `"t"`, 1)},
		"another target": {text, "r1", strings.Replace(use, "n1", "n2", 1)},
		"another field":  {text, "r1", strings.Replace(use, "root", "operator", 1)},
		"another epoch":  {stale, "r1", use},
	} {
		if plain, err := k.Open(c.text, c.rack, c.use); !fault.Is(err, fault.Untrusted) || !plain.Empty() {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A coordinator must not be able to have secrets sealed to a key of its own.
func TestThreat32SealKeyExchanged(t *testing.T) {
	dir := t.TempDir()
	mine, theirs := authority(t, filepath.Join(dir, "ca")), authority(t, filepath.Join(dir, "evil"))
	agent := credentials(t, mine, filepath.Join(dir, "a1"), trust.Agent, "a1")
	k := key(t, filepath.Join(dir, "k"))
	prove := func(rack string, c tls.Certificate) []byte {
		p, err := k.Prove(rack, c)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	ours := trust.Domain{Site: "s1", Rack: "r1"}
	good := prove("r1", agent.Certificate)
	now := time.Now()
	got, err := seal.Verify(good, ours, agent.Roots, now)
	if err != nil || string(got.Key) != string(k.Public()) || got.Rack != "r1" {
		t.Fatalf("got %v, %v", got, err)
	}
	for name, c := range map[string]struct {
		proof []byte
		when  time.Time
	}{
		"no proof":                {nil, now},
		"garbage":                 {[]byte("{"), now},
		"of another rack":         {prove("r2", agent.Certificate), now},
		"of another authority":    {prove("r1", credentials(t, theirs, filepath.Join(dir, "e1"), trust.Agent, "a1").Certificate), now},
		"of our rack's namesake":  {prove("r1", credentials(t, neighbour(t, filepath.Join(dir, "ca")), filepath.Join(dir, "n1"), trust.Agent, "a1").Certificate), now},
		"of a coordinator":        {prove("r1", credentials(t, mine, filepath.Join(dir, "c1"), trust.Coordinator, "c1").Certificate), now},
		"of an operator":          {prove("r1", credentials(t, mine, filepath.Join(dir, "o1"), trust.Operator, "o1").Certificate), now},
		"of an expired agent":     {good, now.AddDate(3, 0, 0)},
		"with another claim":      {[]byte(strings.Replace(string(good), `"claim":"ey`, `"claim":"eyA`, 1)), now},
		"with another signature":  {[]byte(strings.Replace(string(good), `"signature":"M`, `"signature":"N`, 1)), now},
		"without the certificate": {[]byte(string(good[:strings.Index(string(good), `"chain"`)]) + `"chain":[]}`), now},
	} {
		if _, err := seal.Verify(c.proof, ours, agent.Roots, c.when); !fault.Is(err, fault.Untrusted) || fault.HintOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func authority(t *testing.T, dir string) *ca.Site {
	t.Helper()
	a, err := ca.Open(dir, "s1")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// neighbour is another site below the same root.
func neighbour(t *testing.T, dir string) *ca.Site {
	t.Helper()
	root, err := ca.OpenRoot(filepath.Join(dir, "root"))
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "s2")
	if err = root.EnsureSite(at, "s2"); err != nil {
		t.Fatal(err)
	}
	site, err := ca.OpenSite(at)
	if err != nil {
		t.Fatal(err)
	}
	return site
}

func credentials(t *testing.T, a *ca.Site, dir string, role trust.Role, name string) trust.Credentials {
	t.Helper()
	id := trust.Identity{Role: role, Name: name}
	if role == trust.Agent {
		id.Rack = "r1"
	}
	if err := a.Ensure(dir, id); err != nil {
		t.Fatal(err)
	}
	c, err := trust.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

package sign_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/trust/sign"
	"github.com/chiba-mesh/chiba/trust/sign/signtest"
)

const source = `(show all)`

func authors(tb testing.TB) *signtest.Authors {
	tb.Helper()
	a, err := signtest.New(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

func policy(tb testing.TB, a *signtest.Authors, threshold int) *sign.Policy {
	tb.Helper()
	p, err := a.Root.Policy(a.Signed(1, threshold))
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func TestWhoMustSign(t *testing.T) {
	a := authors(t)
	o := a.Order(order.Run, "s", source)
	for _, c := range []struct {
		name      string
		threshold int
		keys      []*sign.Key
		why       string
	}{
		{"one of one", 1, []*sign.Key{a.Ada}, ""},
		{"both of two", 2, []*sign.Key{a.Ada, a.Bob}, ""},
		{"one of two", 2, []*sign.Key{a.Ada}, "by ada alone, and 2 must sign"},
		{"one twice", 2, []*sign.Key{a.Bob, a.Bob}, "by bob alone, and 2 must sign"},
		{"a stranger", 1, []*sign.Key{a.RootKey}, "by nobody who may"},
	} {
		envelope, err := sign.Order(o, c.keys...)
		if err != nil {
			t.Fatal(err)
		}
		_, err = policy(t, a, c.threshold).Fresh(envelope, []byte(source), "r1", time.Now())
		if c.why == "" && err != nil || c.why != "" && (!fault.Is(err, fault.Untrusted) || !strings.Contains(err.Error(), c.why)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.why)
		}
	}
}

// A second author adds a signature to the first one's; the first may sign anew.
func TestSecondSignature(t *testing.T) {
	a := authors(t)
	envelope := a.Sign(a.Order(order.Run, "s", source))
	for _, key := range []*sign.Key{a.Ada, a.Bob} {
		var err error
		if envelope, err = sign.Add(envelope, key); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(string(envelope), `"sig"`); n != 2 {
		t.Errorf("there are %d signatures", n)
	}
	_, who, err := policy(t, a, 2).Order(envelope)
	if err != nil || strings.Join(who, " ") != "ada bob" {
		t.Errorf("signed by %v, %v", who, err)
	}
}

// No bit of what was signed can be changed, nor the type that says what it is.
func TestThreat32EnvelopeChanged(t *testing.T) {
	a := authors(t)
	p := policy(t, a, 1)
	envelope := a.Sign(a.Order(order.Run, "s", source))
	var parts map[string]any
	if err := json.Unmarshal(envelope, &parts); err != nil {
		t.Fatal(err)
	}
	parts["payloadType"] = sign.PolicyType
	swapped, err := json.Marshal(parts)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Order(swapped); err == nil {
		t.Error("an envelope of another type was taken")
	}
	if _, err := a.Root.Policy(swapped); err == nil {
		t.Error("an order was taken as a policy")
	}
	text, _ := parts["payload"].(string)
	at := strings.Index(string(envelope), text)
	for i := range text {
		changed := []byte(string(envelope))
		changed[at+i] = 'A' + (changed[at+i]+1)%26
		if string(changed) == string(envelope) {
			continue
		}
		if _, _, err := p.Order(changed); err == nil {
			t.Fatalf("with byte %d of the payload changed it was taken", i)
		}
	}
}

func TestPolicyThatMakesNoSense(t *testing.T) {
	a := authors(t)
	for name, edit := range map[string]func(*sign.Policy){
		"no version":         func(p *sign.Policy) { p.Version = 0 },
		"no end":             func(p *sign.Policy) { p.NotAfter = time.Time{} },
		"threshold 0":        func(p *sign.Policy) { p.Threshold = 0 },
		"too few authors":    func(p *sign.Policy) { p.Threshold = 3 },
		"one key twice":      func(p *sign.Policy) { p.Authors[1].Key = p.Authors[0].Key },
		"one name twice":     func(p *sign.Policy) { p.Authors[1].Name = "ada" },
		"a kind out of hand": func(p *sign.Policy) { p.PerKind = map[order.Kind]int{order.Run: 0} },
	} {
		p := a.Policy(1, 1)
		edit(&p)
		if _, err := p.Sign(a.RootKey); err == nil {
			t.Errorf("%s: it was signed", name)
		}
	}
}

func TestThresholdOfAKind(t *testing.T) {
	a := authors(t)
	p := a.Policy(1, 1)
	p.PerKind = map[order.Kind]int{order.Standing: 2}
	if _, _, err := p.Order(a.Sign(a.Order(order.Standing, "s", source))); err == nil {
		t.Error("one signature was enough for what stands")
	}
	if _, _, err := p.Order(a.Sign(a.Order(order.Run, "s", source))); err != nil {
		t.Error(err)
	}
}

func TestNoPolicyAdmitsNothing(t *testing.T) {
	a := authors(t)
	var none *sign.Policy
	if _, _, err := none.Order(a.Sign(a.Order(order.Run, "s", source))); !fault.Is(err, fault.Untrusted) || fault.HintOf(err) == "" {
		t.Errorf("got %v", err)
	}
	old := policy(t, a, 1)
	if _, err := old.Fresh(a.Sign(a.Order(order.Run, "s", source)), []byte(source), "r1", old.NotAfter.Add(1)); err == nil {
		t.Error("an expired policy admits something")
	}
}

func TestKeyFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x", "author.key")
	made, err := sign.EnsureKey(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if again, err := sign.EnsureKey(path); err != nil || again.Public().String() != made.Public().String() {
		t.Errorf("it was not found again: %v", err)
	}
	if _, err := sign.MakeKey(path); !fault.Is(err, fault.Conflict) {
		t.Errorf("a key was replaced: %v", err)
	}
	if p, err := sign.ParsePublic(made.Public().String()); err != nil || p.ID() != made.Public().ID() {
		t.Errorf("its text form: %v", err)
	}
}

// FuzzOrder reads envelopes that anybody may send: nothing unsigned gets through.
func FuzzOrder(f *testing.F) {
	a := authors(f)
	p := policy(f, a, 1)
	good := a.Sign(a.Order(order.Run, "s", source))
	f.Add(good)
	f.Add(a.Signed(1, 1))
	f.Add([]byte(`{"payloadType":"application/vnd.chiba.script+json","payload":"e30=","signatures":[{"sig":""}]}`))
	want, _, err := p.Order(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, envelope []byte) {
		if got, _, err := p.Order(envelope); err == nil && got.Version != want.Version {
			t.Errorf("an order that nobody signed: %v", got)
		}
	})
}

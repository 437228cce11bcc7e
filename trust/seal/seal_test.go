package seal_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/trust/seal"
)

const (
	canary = "canary-5f1c"
	use    = `script "s" target "n1" field "bmc.user.root.password"`
)

func key(t *testing.T, path string) *seal.Key {
	t.Helper()
	k, err := seal.OpenKey(path)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSealedForTwoAgents(t *testing.T) {
	dir := t.TempDir()
	one, two := key(t, filepath.Join(dir, "one")), key(t, filepath.Join(dir, "two"))
	other := key(t, filepath.Join(dir, "other"))
	text, err := seal.Seal([]seal.Recipient{one.Recipient("r1"), two.Recipient("r1")}, use, fleet.NewSecret(canary))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, canary) {
		t.Fatal("the sealed text shows the secret")
	}
	for _, k := range []*seal.Key{one, two} {
		plain, openErr := k.Open(text, "r1", use)
		if openErr != nil || plain.Reveal() != canary {
			t.Errorf("a recipient can't read it: %v", openErr)
		}
	}
	if _, err := other.Open(text, "r1", use); !fault.Is(err, fault.Denied) || fault.HintOf(err) == "" {
		t.Errorf("another agent: %v, want denied with a hint", err)
	}
}

func TestKeySurvivesRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent", "seal.key")
	text, err := seal.Seal([]seal.Recipient{key(t, path).Recipient("r1")}, use, fleet.NewSecret(canary))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := key(t, path).Open(text, "r1", use)
	if err != nil || plain.Reveal() != canary {
		t.Errorf("after a restart: %v", err)
	}
}

func TestDamagedTextIsAnError(t *testing.T) {
	k := key(t, filepath.Join(t.TempDir(), "k"))
	text, err := seal.Seal([]seal.Recipient{k.Recipient("r1")}, use, fleet.NewSecret(canary))
	if err != nil {
		t.Fatal(err)
	}
	flipped := text[:len(text)-3] + "AAA"
	for _, damaged := range []string{"", canary, "chiba2.", "chiba2.%%%", text[:len(text)/2], flipped} {
		if _, openErr := k.Open(damaged, "r1", use); openErr == nil {
			t.Errorf("%q opened", damaged)
		} else if strings.Contains(openErr.Error(), canary) {
			t.Errorf("the error shows the secret: %v", openErr)
		}
	}
}

func TestNobodyToSealFor(t *testing.T) {
	if _, err := seal.Seal(nil, use, fleet.NewSecret(canary)); !fault.Is(err, fault.Conflict) {
		t.Errorf("got %v, want conflict", err)
	}
}

func FuzzOpen(f *testing.F) {
	k, err := seal.OpenKey(filepath.Join(f.TempDir(), "k"))
	if err != nil {
		f.Fatal(err)
	}
	text, err := seal.Seal([]seal.Recipient{k.Recipient("r1")}, use, fleet.NewSecret(canary))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add("chiba2.AAAA.AAAA")
	f.Fuzz(func(t *testing.T, sealed string) {
		plain, openErr := k.Open(sealed, "r1", use)
		if openErr == nil && plain.Reveal() != canary {
			t.Errorf("%q opened to something nobody sealed", sealed)
		}
	})
}

// The public half survives the way through a configuration; nothing else is taken for it.
func TestRecoveryKeyAsText(t *testing.T) {
	k := key(t, filepath.Join(t.TempDir(), "k"))
	to, err := seal.ParseText(k.Text(), "r1")
	if err != nil {
		t.Fatal(err)
	}
	text, err := seal.Seal([]seal.Recipient{to}, use, fleet.NewSecret(canary))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := k.Open(text, "r1", use); err != nil || plain.Reveal() != canary {
		t.Errorf("sealed to the text: %v", err)
	}
	for _, bad := range []string{"", "x", k.Text()[1:], k.Text() + "A", k.Text()[:30], text} {
		if _, err := seal.ParseText(bad, "r1"); !fault.Is(err, fault.BadInput) || fault.HintOf(err) == "" {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// A key that has grown old is followed by another. What was sealed to it opens still,
// and what is sealed now is for the new one.
func TestKeysFollowEachOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k")
	now := time.Now()
	if err := seal.RenewKey(path, now, true); err != nil {
		t.Fatal(err)
	}
	sealed := map[string]bool{}
	for round := range 40 {
		k := key(t, path)
		text, err := seal.Seal([]seal.Recipient{k.Recipient("r1")}, use, fleet.NewSecret(canary))
		if err != nil {
			t.Fatal(err)
		}
		sealed[text] = true
		if err = seal.RenewKey(path, now.Add(time.Duration(round)*100*24*time.Hour), false); err != nil {
			t.Fatal(err)
		}
		next := key(t, path)
		if young := round == 0; (string(next.Public()) == string(k.Public())) != young || next.Recipient("r1").Epoch < k.Recipient("r1").Epoch {
			t.Fatalf("round %d: epoch %d after %d", round, next.Recipient("r1").Epoch, k.Recipient("r1").Epoch)
		}
		opened := 0
		for old := range sealed {
			if plain, err := next.Open(old, "r1", use); err == nil && plain.Reveal() == canary {
				opened++
			}
		}
		if want := min(len(sealed), 33); opened < min(want, 31) {
			t.Fatalf("round %d: it opens %d of %d", round, opened, len(sealed))
		}
	}
	before := key(t, path)
	if err := seal.RenewKey(path, now, true); err != nil || string(key(t, path).Public()) == string(before.Public()) {
		t.Errorf("asked to: %v", err)
	}
	for _, damaged := range [][]byte{{}, make([]byte, 41), make([]byte, 79)} {
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := seal.OpenKey(path); !fault.Is(err, fault.BadInput) {
			t.Errorf("%d bytes: %v", len(damaged), err)
		}
		if err := seal.RenewKey(path, now, true); !fault.Is(err, fault.BadInput) {
			t.Errorf("%d bytes renewed: %v", len(damaged), err)
		}
	}
}

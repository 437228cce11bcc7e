package e2e_test

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Where the policy asks for two authors, one of them prepares, the other signs, and
// nothing is done before.
func TestTwoAuthors(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.dev()
	ada := strings.TrimSpace(w.must("trust", "author", "show"))
	_, bob, _ := strings.Cut(strings.TrimSpace(w.must("trust", "author", "init", "--key", filepath.Join(w.dir, "bob.key"))), ": ")
	policy, err := json.Marshal(map[string]any{
		"version": time.Now().Add(time.Minute).UnixMilli(), "notAfter": time.Now().AddDate(1, 0, 0), "threshold": 2,
		"authors": []map[string]string{{"name": "ada", "key": ada}, {"name": "bob", "key": bob}},
	})
	if err != nil {
		t.Fatal(err)
	}
	script := w.file("tag.scl", `(config "r01-u04" (asset-tag "two"))`)
	signed := filepath.Join(w.dir, "policy.dsse")
	w.must("trust", "policy", "sign", w.file("policy.json", string(policy)), "--root-key", filepath.Join(w.dir, "authors", "root.key"), "--out", signed)
	w.must("trust", "policy", "set", signed)
	if shown := w.must("trust", "policy", "show"); !strings.Contains(shown, "2 must sign") || !strings.Contains(shown, bob) {
		t.Errorf("the policy is shown as:\n%s", shown)
	}
	if alone := w.run("apply", "--yes", script); alone.code != 1 || !strings.Contains(alone.stderr, "signed by ada alone, and 2 must sign") {
		t.Errorf("one author alone: exit %d\n%s", alone.code, alone.stderr)
	}
	prepared := filepath.Join(w.dir, "tag.dsse")
	w.must("apply", "--prepare", prepared, script)
	if one := w.run("apply", "--yes", prepared); one.code != 1 {
		t.Errorf("prepared by one author: exit %d\n%s", one.code, one.stdout)
	}
	if unasked := w.run("sign", prepared, "--key", filepath.Join(w.dir, "bob.key")); unasked.code != 2 || !strings.Contains(unasked.stderr, "--yes") {
		t.Errorf("signed where nobody could be asked: exit %d\n%s", unasked.code, unasked.stderr)
	}
	if seen := w.must("sign", prepared, "--yes", "--key", filepath.Join(w.dir, "bob.key")); !strings.Contains(seen, `(asset-tag "two")`) {
		t.Errorf("bob was shown:\n%s", seen)
	}
	if both := w.must("apply", "--yes", prepared); !strings.Contains(both, "confirmed") {
		t.Errorf("signed by both:\n%s", both)
	}
	// The same order again is the same run, told again: whoever lost the answer asks so.
	if again := w.run("apply", "--yes", prepared); again.code != 0 || !strings.Contains(again.stdout, "R1 of") {
		t.Errorf("applied twice: exit %d\n%s%s", again.code, again.stdout, again.stderr)
	}
	if runs := w.must("get", "runs", "-o", "name"); strings.Count(runs, "\n") != 1 {
		t.Errorf("the runs are:\n%s", runs)
	}
}

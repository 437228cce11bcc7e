package audit_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/audit"
	"github.com/chiba-mesh/chiba/trust/ca"
)

// history is a log of n records; those from number changed on are other ones.
func history(tb testing.TB, n, changed int) *audit.Log {
	tb.Helper()
	var l audit.Log
	for i := range n {
		r := audit.Record{At: int64(i), By: "operator ada", What: "apply", Subject: fmt.Sprint("script s", i)}
		if i >= changed {
			r.By = "operator eve"
		}
		if err := l.Append(r); err != nil {
			tb.Fatal(err)
		}
	}
	return &l
}

func head(tb testing.TB, l *audit.Log, size int64) audit.Tree {
	tb.Helper()
	tree, err := l.Head(size)
	if err != nil {
		tb.Fatal(err)
	}
	return tree
}

// An agent that has seen 60 records takes only a log that goes on from just these.
func TestThreat33HistoryRewritten(t *testing.T) {
	seen := head(t, history(t, 60, 60), 60)
	for name, c := range map[string]struct {
		told *audit.Log
		ok   bool
	}{
		"the same":                   {history(t, 60, 60), true},
		"it goes on":                 {history(t, 100, 100), true},
		"it goes on differently":     {history(t, 100, 60), true}, // another may have seen that it does
		"the last record changed":    {history(t, 100, 59), false},
		"the first record changed":   {history(t, 100, 0), false},
		"records are missing":        {history(t, 59, 59), false},
		"all are missing":            {history(t, 0, 0), false},
		"as many, one of them other": {history(t, 60, 30), false},
	} {
		proof, err := c.told.Prove(seen.Size)
		if err != nil {
			t.Fatal(err)
		}
		err = seen.Follows(head(t, c.told, c.told.Size()), proof)
		if c.ok != (err == nil) || err != nil && !fault.Is(err, fault.Conflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Two agents are told two histories: what one has seen does not follow from what
// the other is told, whatever proof the coordinator makes up.
func TestThreat33TwoViews(t *testing.T) {
	one, other := history(t, 80, 80), history(t, 90, 40)
	seen := head(t, one, 80)
	for _, l := range []*audit.Log{one, other} {
		for size := int64(1); size <= l.Size(); size++ {
			proof, err := l.Prove(size)
			if err != nil {
				t.Fatal(err)
			}
			if seen.Follows(head(t, other, 90), proof) == nil {
				t.Fatalf("a fork was taken with the proof for %d records", size)
			}
		}
	}
}

func TestThreat33RecordsAgainstWhatWasSigned(t *testing.T) {
	good := history(t, 20, 20)
	signed, seen := head(t, good, 20), head(t, good, 12)
	records := func(l *audit.Log) [][]byte { return l.Leaves(0, 1000) }
	for name, c := range map[string]struct {
		records      [][]byte
		signed, seen audit.Tree
		why          string
	}{
		"all is well":           {records(good), signed, seen, ""},
		"for the first time":    {records(good), signed, audit.Tree{}, ""},
		"more than were signed": {records(history(t, 25, 25)), signed, seen, ""},
		"one was changed":       {records(history(t, 20, 19)), signed, seen, "not those that were signed"},
		"one is missing":        {records(history(t, 19, 19)), signed, seen, "20 records are signed, and there are 19"},
		"signed anew":           {records(history(t, 20, 5)), head(t, history(t, 20, 5), 20), seen, "not those that were seen here before"},
		"cut short":             {records(history(t, 8, 8)), head(t, good, 8), seen, "12 records were seen here before, and 8 are left"},
	} {
		err := audit.Check(c.records, c.signed, c.seen)
		if c.why == "" && err != nil || c.why != "" && (err == nil || !strings.Contains(err.Error(), c.why) || fault.HintOf(err) == "") {
			t.Errorf("%s: %v, want %q", name, err, c.why)
		}
	}
}

func TestThreat33WhoSigns(t *testing.T) {
	dir := t.TempDir()
	mine, theirs := authority(t, filepath.Join(dir, "ca")), authority(t, filepath.Join(dir, "evil"))
	coordinator := credentials(t, mine, filepath.Join(dir, "c1"), trust.Coordinator)
	tree := head(t, history(t, 7, 7), 7)
	sign := func(name string, c trust.Credentials) (checkpoint, proof []byte) {
		n, err := audit.OpenNotary(filepath.Join(dir, name), c.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		checkpoint, proof, err = n.Sign(tree)
		if err != nil {
			t.Fatal(err)
		}
		return checkpoint, proof
	}
	good, proof := sign("audit.key", coordinator)
	again, _ := sign("audit.key", coordinator) // after a restart
	if got, by, err := audit.Verify(again, proof, coordinator, time.Now()); err != nil || got != tree || by.Name != "x" {
		t.Fatalf("got %v of %v, %v", got, by, err)
	}
	_, agents := sign("agent.key", credentials(t, mine, filepath.Join(dir, "a1"), trust.Agent))
	strange, strangers := sign("evil.key", credentials(t, theirs, filepath.Join(dir, "e1"), trust.Coordinator))
	foreign, foreigners := sign("next.key", credentials(t, neighbour(t, filepath.Join(dir, "ca")), filepath.Join(dir, "n1"), trust.Coordinator))
	for name, c := range map[string]struct{ checkpoint, proof []byte }{
		"by an agent":          {good, agents},
		"by another site":      {foreign, foreigners},
		"by another authority": {strange, strangers},
		"by another key":       {strange, proof},
		"of another size":      {[]byte(strings.Replace(string(good), "\n7\n", "\n8\n", 1)), proof},
		"by nobody":            {[]byte(strings.Split(string(good), "\n\n")[0] + "\n"), proof},
		"without a proof":      {good, nil},
	} {
		if _, _, err := audit.Verify(c.checkpoint, c.proof, coordinator, time.Now()); !fault.Is(err, fault.Untrusted) {
			t.Errorf("%s: %v", name, err)
		}
	}
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

func authority(t *testing.T, dir string) *ca.Site {
	t.Helper()
	a, err := ca.Open(dir, "s1")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func credentials(t *testing.T, a *ca.Site, dir string, role trust.Role) trust.Credentials {
	t.Helper()
	id := trust.Identity{Role: role, Name: "x"}
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

// FuzzCheckpoint reads trees that anybody may have written.
func FuzzCheckpoint(f *testing.F) {
	f.Add(head(f, history(f, 3, 3), 3).Kept())
	f.Add([]byte("chiba.audit/v1\n-1\n\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if tree, err := audit.ParseKept(text); err == nil && len(text) > 0 && string(tree.Kept()) != string(text) {
			t.Errorf("%q was read as %q", text, tree.Kept())
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	var l audit.Log
	for b.Loop() {
		if err := l.Append(audit.Record{At: 1, By: "operator ada", What: "apply", Subject: "script s"}); err != nil {
			b.Fatal(err)
		}
	}
}

package agent

import (
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/audit"
	"github.com/chiba-mesh/chiba/trust/ca"
)

// An agent keeps what it has seen of the audit log, also over a restart. It raises
// the alarm once when another is told, and goes on with what authors have signed.
func TestThreat33AgentIsAWitness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		authority, err := ca.Open(filepath.Join(w.dir, "ca"), "s1")
		if err != nil {
			t.Fatal(err)
		}
		home := filepath.Join(w.dir, "c1")
		for dir, id := range map[string]trust.Identity{home: {Role: trust.Coordinator, Name: "c1"}, w.dir: {Role: trust.Agent, Domain: trust.Domain{Rack: "r1"}, Name: "a1"}} {
			if err = authority.Ensure(dir, id); err != nil {
				t.Fatal(err)
			}
		}
		creds, err := trust.Load(home)
		if err != nil {
			t.Fatal(err)
		}
		notary, err := audit.OpenNotary(filepath.Join(home, "audit.key"), creds.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		told := func(l *audit.Log) *pb.Checkpoint {
			c := &pb.Checkpoint{From: w.agent.AuditSize()}
			head, err := l.Head(l.Size())
			if err == nil {
				c.Consistency, err = l.Prove(w.agent.AuditSize())
			}
			if err == nil {
				c.Note, c.Proof, err = notary.Sign(head)
			}
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		var true1, forged audit.Log
		for _, who := range []string{"ada", "bob", "eve"} {
			if err := true1.Append(audit.Record{By: who}); err != nil {
				t.Fatal(err)
			}
			if who != "eve" {
				if err := forged.Append(audit.Record{By: who}); err != nil {
					t.Fatal(err)
				}
			}
		}
		w.start(w.dir)
		w.desire(&pb.Desired{Revision: 1, Audit: told(&true1)})
		w.stop()
		w.start(w.dir)
		defer w.stop()
		if got := w.agent.AuditSize(); got != 3 {
			t.Fatalf("after a restart %d records were seen", got)
		}
		answered := told(&true1)
		if err := true1.Append(audit.Record{By: "dan"}); err != nil {
			t.Fatal(err)
		}
		w.desire(&pb.Desired{Revision: 1, Audit: told(&true1)})
		w.desire(&pb.Desired{Revision: 1, Audit: answered}) // asked for before the last answer came
		for range journal.StalePulls {
			w.desire(&pb.Desired{Revision: 1, Audit: told(&forged)}) // its coordinator may lag
		}
		if got := strings.Join(w.records(), "\n"); strings.Contains(got, "checkpoint") {
			t.Errorf("an alarm for nothing:\n%s", got)
		}
		for range 4 {
			w.desire(&pb.Desired{Revision: 1, Audit: told(&forged)}) // cut short
			if err := forged.Append(audit.Record{By: "mallory"}); err != nil {
				t.Fatal(err)
			}
		}
		w.desire(&pb.Desired{Revision: 2, Audit: told(&forged), Scripts: []*pb.Script{standingScript("a", quiet)}})
		w.expectHave(2, "a")
		if got := w.agent.AuditSize(); got != 4 {
			t.Errorf("the forged log was taken: %d records", got)
		}
		got := strings.Join(w.records(), "\n")
		if n := strings.Count(got, "refused checkpoint"); n != 2 || !strings.Contains(got, "records are missing") {
			t.Errorf("%d alarms, want one for each reason:\n%s", n, got)
		}
	})
}

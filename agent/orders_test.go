package agent

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust/sign"
)

const tag = `(config "n1" (asset-tag "x"))`

// lie is a run as a coordinator tells it, with an order that a test has spoiled.
func (w *world) lie(o order.Order, envelope []byte) *pb.Run {
	return &pb.Run{Id: "R1", Script: "s", File: "s.scl", Source: []byte(tag), Digest: o.Digest, Version: o.Version, Envelope: envelope}
}

// A coordinator that has been taken over tells what it likes. Nothing of it is
// done, and each is recorded with its reason, for the person and for the audit.
func TestThreat32MaliciousCoordinator(t *testing.T) {
	for _, c := range []struct {
		name, why string
		tell      func(w *world) *pb.Desired
	}{
		{"an unsigned run", "it is not signed", func(w *world) *pb.Desired {
			return justRun(w.lie(order.Order{}, nil))
		}},
		{"a run signed by nobody we know", "signed by nobody who may", func(w *world) *pb.Desired {
			o := w.authors.Order(order.Run, "s", tag)
			return justRun(w.lie(o, signed(o, w.authors.RootKey)))
		}},
		{"other bytes than those that were signed", "not the one that was signed", func(w *world) *pb.Desired {
			o := w.authors.Order(order.Run, "s", "(show all)")
			return justRun(w.lie(o, w.authors.Sign(o)))
		}},
		{"a run for another rack", "not meant for rack r1", func(w *world) *pb.Desired {
			o := w.authors.Order(order.Run, "s", tag)
			o.Audience = []string{"r2"}
			return justRun(w.lie(o, w.authors.Sign(o)))
		}},
		{"a run that has expired", "has expired", func(w *world) *pb.Desired {
			o := w.authors.Order(order.Run, "s", tag)
			o.NotAfter = time.Now().Add(-time.Minute)
			return justRun(w.lie(o, w.authors.Sign(o)))
		}},
		{"a run under another name", "the order is to", func(w *world) *pb.Desired {
			o := w.authors.Order(order.Run, "other", tag)
			return justRun(w.lie(o, w.authors.Sign(o)))
		}},
		{"an order to remove, as one to run", "the order is to remove", func(w *world) *pb.Desired {
			o := w.authors.Order(order.Remove, "s", "")
			return justRun(w.lie(o, w.authors.Sign(o)))
		}},
		{"the policy, as an order", "it holds something else", func(w *world) *pb.Desired {
			return justRun(w.lie(order.Order{}, w.policy))
		}},
		{"an order, as a policy", "it holds something else", func(w *world) *pb.Desired {
			return &pb.Desired{Revision: 2, Policy: w.authors.Sign(w.authors.Order(order.Run, "s", tag))}
		}},
		{"an older policy", "version 1 is not newer than version 5", func(w *world) *pb.Desired {
			return &pb.Desired{Revision: 2, Policy: w.authors.Signed(1, 1)}
		}},
		{"a policy that an author has signed", "signed by nobody who may", func(w *world) *pb.Desired {
			envelope, err := w.authors.Policy(9, 1).Sign(w.authors.Ada)
			if err != nil {
				w.t.Fatal(err)
			}
			return &pb.Desired{Revision: 2, Policy: envelope}
		}},
		{"a standing script of a run's order", "the order is to do once", func(w *world) *pb.Desired {
			o := w.authors.Order(order.Run, "s", tag)
			return &pb.Desired{Revision: 2, Scripts: []*pb.Script{{Name: "s", Source: []byte(tag), Digest: o.Digest, Version: o.Version, Envelope: w.authors.Sign(o)}}}
		}},
		{"the script that was replaced", "not newer than version", func(w *world) *pb.Desired {
			old := w.authors.Order(order.Standing, "kept", quiet)
			old.Version = 1
			return &pb.Desired{Revision: 2, Scripts: []*pb.Script{{Name: "kept", Source: []byte(quiet), Digest: old.Digest, Version: 1, Envelope: w.authors.Sign(old)}}}
		}},
		{"a removal that nobody signed", "it is not signed", func(*world) *pb.Desired {
			return &pb.Desired{Revision: 2, Ended: []*pb.Ended{{Name: "kept", Version: 99}}}
		}},
		{"a removal of another script", "the order is to remove other", func(w *world) *pb.Desired {
			e := w.ended("other")
			e.Name = "kept"
			return &pb.Desired{Revision: 2, Ended: []*pb.Ended{e}}
		}},
		{"an old removal", "not newer than version", func(w *world) *pb.Desired {
			o := w.authors.Order(order.Remove, "kept", "")
			o.Version = 1
			return &pb.Desired{Revision: 2, Ended: []*pb.Ended{{Name: "kept", Version: 99, Envelope: w.authors.Sign(o)}}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.policy = w.authors.Signed(5, 1)
				w.start(w.dir)
				defer w.stop()
				w.desire(&pb.Desired{Revision: 1, Scripts: []*pb.Script{standingScript("kept", quiet)}})
				for range 2 { // a coordinator that repeats itself is recorded once
					w.told(c.tell(w))
				}
				if got := w.lanes["n1"].did(); got != "" {
					t.Errorf("it was done: %q", got)
				}
				if _, have := w.agent.Have(); len(have) != 1 || have["kept"] == "" {
					t.Errorf("in force: %v", have)
				}
				if got := w.agent.PolicyVersion(); got != 5 {
					t.Errorf("policy %d is in force", got)
				}
				if got := strings.Join(w.records(), "\n"); !strings.Contains(got, "refused") || !strings.Contains(got, c.why) {
					t.Errorf("recorded: %s\nwant a refusal for: %s", got, c.why)
				}
			})
		})
	}
}

func justRun(r *pb.Run) *pb.Desired { return &pb.Desired{Revision: 2, Runs: []*pb.Run{r}} }

func signed(o order.Order, keys ...*sign.Key) []byte {
	envelope, err := sign.Order(o, keys...)
	if err != nil {
		panic(err)
	}
	return envelope
}

// An order begins one run: told again under another number it is refused, and who
// has applied it sees why.
func TestThreat32RunTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		defer w.stop()
		w.run("R1", tag)
		again := w.authors.Order(order.Run, "s", tag)
		again.Version--
		r := w.lie(again, w.authors.Sign(again))
		r.Id = "R2"
		w.told(&pb.Desired{Revision: 2, Runs: []*pb.Run{r}})
		if got := w.lanes["n1"].did(); got != "set asset-tag" {
			t.Errorf("n1 was told %q", got)
		}
		if got := w.records(); !strings.HasPrefix(got[len(got)-1], "R2 done: 0 ok, 0 failed, refused: ") {
			t.Errorf("recorded: %q", got)
		}
	})
}

// Two must sign: one does not suffice, nor does one twice.
func TestThreat32Threshold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.policy = w.authors.Signed(1, 2)
		w.start(w.dir)
		defer w.stop()
		for _, c := range []struct {
			keys []*sign.Key
			did  string
		}{
			{[]*sign.Key{w.authors.Ada}, ""},
			{[]*sign.Key{w.authors.Ada, w.authors.Ada}, ""},
			{[]*sign.Key{w.authors.Ada, w.authors.RootKey}, ""},
			{[]*sign.Key{w.authors.Ada, w.authors.Bob}, "set asset-tag"},
		} {
			o := w.authors.Order(order.Run, "s", tag)
			r := w.lie(o, signed(o, c.keys...))
			r.StartedUnixMs = int64(o.Version)
			w.desire(&pb.Desired{Revision: 1, Runs: []*pb.Run{r}})
			if got := w.lanes["n1"].did(); got != c.did {
				t.Errorf("with %d signatures n1 was told %q", len(c.keys), got)
			}
		}
	})
}

// What lies on the disk is verified again: it may have been in other hands.
func TestThreat32DiskChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		w.apply(quiet)
		w.stop()
		disk, err := spool.Open(w.path(), spool.Options{})
		if err != nil {
			t.Fatal(err)
		}
		err = disk.Update(func(tx *spool.Tx) error {
			s := w.agent.standing.scripts["s"].Script
			s.Source = []byte(hotRule)
			tx.PutMessage(spool.Scripts, "s", s)
			return nil
		})
		if err != nil || disk.Close() != nil {
			t.Fatal(err)
		}
		w.start(w.dir)
		defer w.stop()
		w.expectHave(1)
		if got := strings.Join(w.records(), "\n"); !strings.Contains(got, "refused script s: verify order: the script is not the one") {
			t.Errorf("recorded: %s", got)
		}
	})
}

// Whom a new policy no longer lets sign loses what they have signed.
func TestThreat32AuthorLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		defer w.stop()
		w.apply(quiet)
		p := w.authors.Policy(2, 1)
		p.Authors = p.Authors[1:]
		var err error
		if w.policy, err = p.Sign(w.authors.RootKey); err != nil {
			t.Fatal(err)
		}
		w.desire(&pb.Desired{Revision: 2})
		w.expectHave(2)
	})
}

// A cancel stops the run that it names, whatever the coordinator says beside it.
func TestThreat32CancelOfAnotherRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		hang := make(chan bool)
		w.lanes["n1"].do = func(context.Context, scl.Command) fleet.Result {
			<-hang
			return fleet.Result{Status: fleet.Confirmed}
		}
		w.start(w.dir)
		defer w.stop()
		w.run("R1", `(action "n1" (boot pxe) (reboot))`)
		lie := w.cancel("R1")
		o := w.authors.Order(order.Cancel, "s", "")
		o.Cancels = lie.GetVersion() - 1
		lie.Cancel = w.authors.Sign(o)
		w.desire(&pb.Desired{Revision: 2, Canceled: []*pb.Run{lie}})
		close(hang)
		synctest.Wait()
		if got := w.records(); got[len(got)-1] != "R1 done: 1 ok, 0 failed" {
			t.Errorf("recorded: %q", got)
		}
	})
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const hot = `(monitor "hot" (condition (> cpu.temp 90)) (action (power off)))`

// onRack plays f in a rack that has the policy of its authors.
func onRack(t *testing.T, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		defer func() { w.stop() }()
		w.desire(&pb.Desired{Revision: 5})
		f(w)
	})
}

// give has a person on the rack apply a script, and returns when the agent is idle.
func (w *world) give(name, source string, edit ...func(*order.Order)) *pb.Run {
	w.t.Helper()
	a, err := w.agent.applyHere(w.t.Context(), w.authors.Apply(name, source, edit...))
	if err != nil || a.GetDiagnostics() != nil {
		w.t.Fatalf("%v %s", err, a.GetDiagnostics().GetText())
	}
	synctest.Wait()
	return a.GetRun()
}

// remove has a person on the rack end the force of a script.
func (w *world) remove(name string) error {
	_, err := w.agent.removeHere(w.t.Context(), &pb.RemoveScriptRequest{Name: name, Envelope: w.authors.Sign(w.authors.Order(order.Remove, name, ""))})
	synctest.Wait()
	return err
}

// inForce are the scripts that stand, as `get scripts` lists them.
func (w *world) inForce() string {
	w.t.Helper()
	a, err := w.agent.listScripts(w.t.Context(), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	var all []string
	for _, s := range a.GetScripts() {
		text := s.GetName()
		if s.GetRack() != "" {
			text += " by " + s.GetAppliedBy()
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

// What a person has signed and given at the agent's own door is recorded before what
// came of it, and goes on over kill -9.
func TestAPersonOnTheRack(t *testing.T) {
	onRack(t, func(w *world) {
		t := w.t
		standing := w.give("hot", strings.Replace(hot, `"hot"`, `"n1"`, 1))
		run := w.give("tag", `(action "n2" (set-indicator on))`)
		want := []string{
			"uid 0 had it done: standing hot, " + standing.GetId() + ", signed by ada, cut off",
			standing.GetId() + " accepted for 1",
			standing.GetId() + " n1: rule m1 confirmed",
			standing.GetId() + " done: 1 ok, 0 failed",
			"uid 0 had it done: run tag, " + run.GetId() + ", signed by ada, cut off",
			run.GetId() + " accepted for 1",
			run.GetId() + " n2: (set-indicator on) confirmed",
			run.GetId() + " done: 1 ok, 0 failed",
		}
		if diff := cmp.Diff(want, w.records()); diff != "" {
			t.Error(diff)
		}

		w.stop()
		w.start(w.crash())
		if got := w.inForce(); got != "hot by uid 0@r1" {
			t.Errorf("in force after kill -9: %s", got)
		}
		runs, err := w.agent.listRuns(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		var told []string
		for _, r := range runs.GetRuns() {
			told = append(told, fmt.Sprintf("%s of %s by %s: %s", r.GetId(), r.GetScript(), r.GetStartedBy(), r.GetState()))
		}
		if diff := cmp.Diff([]string{run.GetId() + " of tag by uid 0@r1: done", standing.GetId() + " of hot by uid 0@r1: done"}, told); diff != "" {
			t.Error(diff)
		}
		w.lanes["n1"].set(func() { w.lanes["n1"].values["cpu.temp"] = fleet.Number(95, fleet.Celsius) })
		pass(time.Minute)
		if got := w.lanes["n1"].did(); !strings.Contains(got, "(power off)") {
			t.Errorf("the rule did %q", got)
		}
		firings, err := w.agent.listFirings(t.Context(), nil)
		if err != nil || len(firings.GetFirings()) != 1 || !firings.GetFirings()[0].GetCutOff() {
			t.Errorf("firings: %v, %v", firings, err)
		}
		log, err := w.agent.readAudit(t.Context(), &pb.ReadAuditRequest{})
		if err != nil || !strings.Contains(string(slices.Concat(log.GetRecords()...)), "apply on the rack") {
			t.Errorf("audit: %s, %v", log.GetRecords(), err)
		}
	})
}

// Whoever sent an order and lost the answer may send it again.
func TestTheSameOrderTwiceIsOneRun(t *testing.T) {
	onRack(t, func(w *world) {
		t := w.t
		q := w.authors.Apply("tag", `(action "n2" (set-indicator on))`)
		first, err := w.agent.applyHere(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		again, err := w.agent.applyHere(t.Context(), q)
		if err != nil || again.GetRun().GetId() != first.GetRun().GetId() || again.GetRun().GetStartedUnixMs() != first.GetRun().GetStartedUnixMs() {
			t.Errorf("the answer: %v, %v, want %v", again, err, first)
		}
		synctest.Wait()
		if got := w.lanes["n2"].did(); strings.Count(got, "indicator") != 1 {
			t.Errorf("it did %q", got)
		}
	})
}

// Being root on the rack's machine opens the door and signs nothing: what comes in
// there is verified as what a coordinator tells, and what is refused is recorded with
// who gave it.
func TestThreat32TheAgentsOwnDoorTakesOnlyWhatIsSigned(t *testing.T) {
	with := func(edit func(*order.Order)) func(*world) *pb.ApplyRequest {
		return func(w *world) *pb.ApplyRequest { return w.authors.Apply("s", tag, edit) }
	}
	for name, c := range map[string]struct {
		give func(w *world) *pb.ApplyRequest
		why  string
	}{
		"unsigned": {func(*world) *pb.ApplyRequest { return &pb.ApplyRequest{Source: []byte(tag)} }, "it is not signed"},
		"signed by who may not": {func(w *world) *pb.ApplyRequest {
			o := w.authors.Order(order.Standing, "s", tag)
			return &pb.ApplyRequest{Source: []byte(tag), Envelope: signed(o, w.authors.RootKey)}
		}, "signed by nobody who may"},
		"other bytes": {func(w *world) *pb.ApplyRequest {
			q := w.authors.Apply("s", tag)
			q.Source = []byte(quiet)
			return q
		}, "not the one that was signed"},
		"for another rack": {with(func(o *order.Order) { o.Audience = []string{"r2"} }), "not meant for rack r1"},
		"too late":         {with(func(o *order.Order) { o.NotAfter = time.Now().Add(-time.Minute) }), "has expired"},
		"older":            {with(func(o *order.Order) { o.Name, o.Version = "kept", 1 }), "not newer than version"},
		"a removal": {func(w *world) *pb.ApplyRequest {
			return &pb.ApplyRequest{Envelope: w.authors.Sign(w.authors.Order(order.Remove, "s", ""))}
		}, "the order is to remove"},
		"one author of two": {func(w *world) *pb.ApplyRequest {
			w.told(&pb.Desired{Revision: 5, Policy: w.authors.Signed(9, 2)})
			return w.authors.Apply("s", tag)
		}, "2 must sign"},
	} {
		t.Run(name, func(t *testing.T) {
			onRack(t, func(w *world) {
				t := w.t
				w.give("kept", quiet)
				a, err := w.agent.applyHere(t.Context(), c.give(w))
				if !fault.Is(err, fault.Untrusted) || !strings.Contains(err.Error(), c.why) {
					t.Errorf("it said %v, %v; want %q", a, err, c.why)
				}
				synctest.Wait()
				if got := w.lanes["n1"].did(); got != "" || w.inForce() != "kept by uid 0@r1" && name != "one author of two" {
					t.Errorf("it was done: %q, in force: %s", got, w.inForce())
				}
				if got := strings.Join(w.records(), "\n"); !strings.Contains(got, c.why) || !strings.Contains(got, "given by uid 0 (uid 0)") {
					t.Errorf("recorded: %s", got)
				}
			})
		})
	}
}

// The glass is broken where no coordinator is reached: root on the rack's machine and
// two authors have something done that the policy lets nobody do alone. It is done, it
// is recorded who they were before anything that came of it, also over kill -9, and the
// coordinators are told in that order.
func TestThreat37BreakGlassWhileCutOff(t *testing.T) {
	onRack(t, func(w *world) {
		t := w.t
		w.told(&pb.Desired{Revision: 5, Policy: w.authors.Signed(9, 2)})
		const light = `(action "n1" (set-indicator on))`
		o := w.authors.Order(order.Run, "rescue", light)
		alone := &pb.ApplyRequest{Source: []byte(light), Envelope: signed(o, w.authors.Ada)}
		if _, err := w.agent.applyHere(t.Context(), alone); !fault.Is(err, fault.Untrusted) || !strings.Contains(err.Error(), "2 must sign") {
			t.Fatalf("ada alone: %v", err)
		}
		twice := &pb.ApplyRequest{Source: []byte(light), Envelope: signed(o, w.authors.Ada, w.authors.Ada)}
		if _, err := w.agent.applyHere(t.Context(), twice); !fault.Is(err, fault.Untrusted) {
			t.Fatalf("ada twice: %v", err)
		}
		both := &pb.ApplyRequest{Source: []byte(light), Envelope: signed(o, w.authors.Ada, w.authors.Bob)}
		a, err := w.agent.applyHere(t.Context(), both)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.stop()
		w.start(w.crash())
		run, done := a.GetRun().GetId(), w.records()
		if got := strings.Join(done[:2], "; "); strings.Count(got, "refused run rescue") != 2 || !strings.Contains(got, "given by uid 0") {
			t.Errorf("what was refused: %s", got)
		}
		if want := "uid 0 had it done: run rescue, " + run + ", signed by ada and bob, cut off"; done[2] != want {
			t.Errorf("told first: %s; want %s", done[2], want)
		}
		if got := strings.Join(done[3:], "; "); !strings.Contains(got, run+" done: 1 ok, 0 failed") {
			t.Errorf("what came of it: %s", got)
		}
		if got := w.lanes["n1"].did(); !strings.Contains(got, "indicator") {
			t.Errorf("it did %q", got)
		}
	})
}

// A coordinator that has not heard yet of what was decided here is no reason for an
// alarm; one that knows of something newer is obeyed.
func TestDecisionsHereAndThere(t *testing.T) {
	onRack(t, func(w *world) {
		t := w.t
		old := w.ended("a") // before what is decided here
		oldScript := standingScript("b", quiet)
		w.sign(&pb.Desired{Scripts: []*pb.Script{oldScript}})
		w.desire(&pb.Desired{Revision: 6, Scripts: []*pb.Script{oldScript}})
		w.give("a", quiet)
		if err := w.remove("b"); err != nil {
			t.Fatal(err)
		}
		w.give("c", quiet)

		w.desire(&pb.Desired{Revision: 7, Ended: []*pb.Ended{old}, Scripts: []*pb.Script{oldScript}})
		if got := w.inForce(); got != "a by uid 0@r1, c by uid 0@r1" {
			t.Errorf("in force when a coordinator lags: %s", got)
		}
		w.desire(&pb.Desired{Revision: 8, Ended: []*pb.Ended{w.ended("a")}, Scripts: []*pb.Script{standingScript("b", hotOn("n1")), standingScript("c", hotOn("n1"))}})
		if got := w.inForce(); got != "b, c" {
			t.Errorf("in force when the fleet has decided: %s", got)
		}
		if got := strings.Join(w.records(), "\n"); strings.Contains(got, "refused") {
			t.Errorf("recorded: %s", got)
		}
		// And once it is over, what is older is refused aloud as ever.
		w.desire(&pb.Desired{Revision: 9, Ended: []*pb.Ended{{Name: "c", Version: old.GetVersion(), Envelope: w.authors.Sign(older1(w, "c"))}}})
		if got := strings.Join(w.records(), "\n"); !strings.Contains(got, "refused removal c") {
			t.Errorf("recorded: %s", got)
		}
	})
}

func hotOn(node string) string { return strings.Replace(hot, `"hot"`, `"`+node+`"`, 1) }

func older1(w *world, name string) order.Order {
	o := w.authors.Order(order.Remove, name, "")
	o.Version = 1
	return o
}

func TestWhatStandsHereCanBeEndedHere(t *testing.T) {
	onRack(t, func(w *world) {
		t := w.t
		if err := w.remove("hot"); !fault.Is(err, fault.NotFound) || fault.HintOf(err) == "" {
			t.Errorf("the end of what does not stand: %v", err)
		}
		w.give("hot", hotOn("n1"))
		w.give("hot", `(action "n2" (set-indicator on))`) // what is done once ends it too
		if got := w.inForce(); got != "" {
			t.Errorf("in force: %s", got)
		}
		w.lanes["n1"].set(func() { w.lanes["n1"].values["cpu.temp"] = fleet.Number(95, fleet.Celsius) })
		pass(time.Minute)
		if got := w.lanes["n1"].did(); got != "" {
			t.Errorf("the rule did %q", got)
		}
	})
}

func TestARunIsStoppedOnTheRack(t *testing.T) {
	onRack(t, func(w *world) {
		t := w.t
		begun, release := make(chan struct{}), make(chan struct{})
		w.lanes["n1"].do = func(ctx context.Context, c scl.Command) fleet.Result {
			if c.Verb == scl.DoReboot {
				close(begun)
				<-release
			}
			return fleet.Result{Status: fleet.Confirmed}
		}
		a, err := w.agent.applyHere(t.Context(), w.authors.Apply("two", `(action "n1" (reboot) (set-indicator on))`))
		if err != nil {
			t.Fatal(err)
		}
		<-begun
		id := a.GetRun().GetId()
		stop := func(id string, version uint64) error {
			o := w.authors.Order(order.Cancel, "two", "")
			o.Cancels = version
			_, stopErr := w.agent.cancelHere(t.Context(), &pb.CancelRunRequest{Id: id, Envelope: w.authors.Sign(o)})
			return stopErr
		}
		if err = stop("R9", a.GetRun().GetVersion()); !fault.Is(err, fault.NotFound) {
			t.Errorf("the end of no run: %v", err)
		}
		if err = stop(id, a.GetRun().GetVersion()+1); !fault.Is(err, fault.BadInput) {
			t.Errorf("the end of another run: %v", err)
		}
		if err = stop(id, a.GetRun().GetVersion()); err != nil {
			t.Fatal(err)
		}
		close(release)
		synctest.Wait()
		got, err := w.agent.getRun(t.Context(), &pb.GetRunRequest{Id: id})
		if err != nil || got.GetRun().GetState() != "canceled" || len(got.GetResults()) != 2 || got.GetResults()[1].GetStatus() != "skipped" {
			t.Errorf("the run: %v, %v", got, err)
		}
		err = w.agent.spool.View(func(tx *spool.Tx) error {
			for key := range tx.All(spool.Stopped, "") {
				t.Errorf("it is remembered as stopped: %q", key)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// What a person must be told before they sign, and what is wrong with their script.
func TestWhatAnAuthorIsToldOnTheRack(t *testing.T) {
	onRack(t, func(w *world) {
		t := w.t
		run := w.give("s", `(action "n1" (set-indicator on))`)
		a, err := w.agent.prepare(t.Context(), &pb.PrepareRequest{Name: "s"})
		if err != nil || a.GetVersion() != run.GetVersion() || a.GetAudience()[0] != "r1" {
			t.Errorf("told %v, %v", a, err)
		}
		a, err = w.agent.prepare(t.Context(), &pb.PrepareRequest{File: "x.scl", Source: []byte(`(show "n1x")`)})
		if err != nil || !strings.Contains(a.GetDiagnostics().GetText(), "n1x") || a.GetName() != "x" {
			t.Errorf("told %v, %v", a, err)
		}
		_, err = w.agent.prepare(t.Context(), &pb.PrepareRequest{File: "x.scl", Source: []byte(`(config "n1" (bmc (user "root" (password "x"))))`)})
		if !fault.Is(err, fault.BadInput) {
			t.Errorf("of a secret in clear: %v", err)
		}
	})
}

// People watch the rack as they watch the fleet.
func TestWatchingTheRack(t *testing.T) {
	onRack(t, func(w *world) {
		t := w.t
		ctx, cancel := context.WithCancel(t.Context())
		var told []string
		ended := make(chan error, 1)
		go func() {
			ended <- w.agent.watchHere(ctx, &pb.WatchRequest{}, func(e *pb.Event) error {
				switch b := e.GetBody().(type) {
				case *pb.Event_Local:
					told = append(told, b.Local.GetOrder().GetUser()+" "+b.Local.GetOrder().GetKind())
				case *pb.Event_Run:
					told = append(told, b.Run.GetScript()+" "+b.Run.GetState())
				}
				return nil
			})
		}()
		synctest.Wait()
		run := w.give("s", `(action "n1" (set-indicator on))`)
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if diff := cmp.Diff([]string{"uid 0 run", "s running", "s done"}, told); diff != "" {
			t.Error(diff)
		}
		told = nil
		err := w.agent.watchRun(t.Context(), &pb.WatchRunRequest{Id: run.GetId()}, func(e *pb.RunEvent) error {
			told = append(told, e.GetRun().GetState()+e.GetResult().GetStatus())
			return nil
		})
		if diff := cmp.Diff([]string{"done", "confirmed"}, told); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	})
}

// A spool that is full takes no new work, from nobody; people are told why.
func TestAFullSpoolTakesNoOrders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.disk.MaxSize = 1 << 20
		w.start(w.dir)
		defer w.stop()
		w.desire(&pb.Desired{Revision: 5})
		for w.agent.trouble() == "" {
			err := w.agent.spool.Update(func(tx *spool.Tx) error {
				tx.Append(time.Now(), &pb.Record{Body: &pb.Record_Firing{Firing: &pb.Firing{Condition: strings.Repeat("x", 16<<10)}}})
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		_, err := w.agent.applyHere(t.Context(), w.authors.Apply("s", tag))
		if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "full") {
			t.Errorf("it said %v", err)
		}
	})
}

// Every method is one of the API's.
func TestTheDoorHasMethodsOfTheAPI(t *testing.T) {
	api := pb.File_api_proto.Services().ByName("Fleet").Methods()
	for name := range (&Agent{}).methods() {
		if api.ByName(protoreflect.Name(name)) == nil {
			t.Errorf("the API has no method %s", name)
		}
	}
}

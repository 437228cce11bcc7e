package agent

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/inventory"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// server is a BMC's tree with a manager, a system and the drives that are named.
func server(firmware string, drives ...string) []redfish.Resource {
	tree := []redfish.Resource{
		{URI: "/redfish/v1", Body: []byte(`{"@odata.type":"#ServiceRoot.v1.ServiceRoot"}`)},
		{URI: "/redfish/v1/Managers/bmc", Body: fmt.Appendf(nil, `{"@odata.type":"#Manager.v1.Manager","ManagerType":"BMC","FirmwareVersion":%q}`, firmware)},
		{URI: "/redfish/v1/Systems/1", Body: []byte(`{"@odata.type":"#ComputerSystem.v1.ComputerSystem","BiosVersion":"B7"}`)},
	}
	for _, d := range drives {
		tree = append(tree, redfish.Resource{URI: "/redfish/v1/Drives/" + d, Body: fmt.Appendf(nil, `{"@odata.type":"#Drive.v1.Drive","SerialNumber":"S-%s"}`, d)})
	}
	return tree
}

func (w *world) hardware() []string {
	return w.recordsOf(func(r *pb.Record) bool { return r.GetHardware() != nil })
}

func (w *world) surveys(name fleet.NodeName) (n int) {
	w.lanes[name].set(func() { n = w.lanes[name].surveys })
	return n
}

func TestSurveysAreSpreadAndRare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Inventory = time.Hour
		w.start(w.dir)
		defer w.stop()
		if pass(surveyRest - time.Minute); w.surveys("n1") != 0 {
			t.Error("a survey right after the start")
		}
		if pass(surveySpread + time.Minute); w.surveys("n1") != 1 || w.surveys("n2") != 1 {
			t.Errorf("%d and %d surveys after a while, want one of each", w.surveys("n1"), w.surveys("n2"))
		}
		if pass(time.Hour); w.surveys("n1") != 2 {
			t.Errorf("%d surveys an hour later", w.surveys("n1"))
		}
		if len(w.hardware()) > 0 {
			t.Errorf("nothing has changed: %v", w.hardware())
		}
	})
}

func TestHardwareNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Inventory = time.Hour
		l := w.lanes["n1"]
		l.tree = server("1.0", "a", "b")
		w.start(w.dir)
		pass(surveyRest + surveySpread)
		l.set(func() { l.tree = server("1.1", "b", "c") })
		pass(time.Hour)
		expect(t, []string{
			"n1 hardware, removed /redfish/v1/Drives/a S-a, added /redfish/v1/Drives/c S-c, changed /redfish/v1/Managers/bmc#firmware 1.0 1.1",
		}, w.hardware())
		n := w.agent.rack.named("n1").seen()
		if n.Firmware != "1.1" || n.BIOS != "B7" {
			t.Errorf("the summary has firmware %q and BIOS %q", n.Firmware, n.BIOS)
		}
		w.stop()

		// What is changed while the agent is down is news at its next start, and
		// only then; the summary knows the firmware from the beginning.
		l.set(func() { l.tree = server("1.1", "c") })
		w.start(w.dir)
		defer w.stop()
		if got := w.agent.rack.named("n1").seen().Firmware; got != "1.1" {
			t.Errorf("after a restart the firmware is %q", got)
		}
		pass(surveyRest + surveySpread)
		pass(time.Hour)
		if got := w.hardware(); len(got) != 2 || got[1] != "n1 hardware, removed /redfish/v1/Drives/b S-b" {
			t.Errorf("got %q", got)
		}
	})
}

func TestASurveyFollowsPowerOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		defer w.stop()
		pass(surveyRest + surveySpread)
		l := w.lanes["n1"]
		for _, power := range []string{"off", "on"} {
			l.set(func() { l.power = power })
			pass(refreshEvery)
		}
		if pass(surveyRest); w.surveys("n1") != 2 || w.surveys("n2") != 1 {
			t.Errorf("%d and %d surveys, want 2 and 1", w.surveys("n1"), w.surveys("n2"))
		}
	})
}

// What an update has changed is told before long, not at the next daily survey.
func TestASurveyFollowsAFirmwareUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.artifact("bmc.tar", "image")
		l := w.lanes["n1"]
		l.tree = server("1")
		l.update = func(context.Context, bmc.FirmwareUpdate) fleet.Result {
			l.set(func() { l.tree = server("2") })
			return fleet.Result{Status: fleet.Confirmed, Before: "1", After: "2"}
		}
		w.start(w.dir)
		defer w.stop()
		pass(surveyRest + surveySpread)
		w.run("R1", update)
		pass(surveyRest)
		expect(t, []string{"n1 hardware, changed /redfish/v1/Managers/bmc#firmware 1 2"}, w.hardware())
		if w.surveys("n2") != 1 {
			t.Errorf("%d surveys of n2, which nobody has updated", w.surveys("n2"))
		}
	})
}

func TestAFailedSurveyIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		l := w.lanes["n1"]
		l.state = fleet.Unreachable
		w.start(w.dir)
		defer w.stop()
		pass(surveyRest + surveySpread)
		l.set(func() { l.state = fleet.Ready })
		before := w.surveys("n1")
		if pass(leastSurvey); before != 1 || w.surveys("n1") != 2 {
			t.Errorf("%d, then %d surveys, want 1 and 2", before, w.surveys("n1"))
		}
	})
}

// asked is the answer to (dump inventory …) on n1.
func (w *world) asked() (doc inventory.Doc, failed string) {
	w.t.Helper()
	w.agent.Query(w.t.Context(), &pb.Query{File: "q.scl", Source: []byte(`(dump inventory "n1")`)}, func(e *pb.QueryEvent) error {
		r := wire.FromResult(e.GetResult())
		if failed = r.Error; len(r.Body) > 0 {
			var err error
			if doc, err = inventory.ReadDoc(r.Body); err != nil {
				w.t.Error(err)
			}
		}
		return nil
	})
	return doc, failed
}

// TestTheLastInventoryOutlivesTheBMC: what a dead server is made of is what
// somebody wants to know then.
func TestTheLastInventoryOutlivesTheBMC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		l := w.lanes["n1"]
		w.start(w.dir)
		defer w.stop()
		l.set(func() { l.state = fleet.Unreachable })
		if _, failed := w.asked(); !strings.Contains(failed, "does not answer") {
			t.Errorf("without any inventory: %q", failed)
		}
		l.set(func() { l.state, l.tree = fleet.Ready, server("1.0", "a") })
		now, failed := w.asked()
		if failed != "" || now.Stale != "" || len(now.Parts) != 3 || !now.At.Equal(time.Now()) {
			t.Errorf("%+v, %q", now, failed)
		}
		pass(time.Hour)
		l.set(func() { l.state = fleet.Unreachable })
		then, failed := w.asked()
		if failed != "" || !strings.Contains(then.Stale, "does not answer") || time.Since(then.At) < 30*time.Minute {
			t.Errorf("%+v, %q", then, failed)
		}
		if diff := cmp.Diff(now.Parts, then.Parts); diff != "" {
			t.Errorf("(-now +then):\n%s", diff)
		}
	})
}

func TestADamagedInventoryIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.lanes["n1"].tree = server("1.0")
		w.start(w.dir)
		defer w.stop()
		for _, damage := range []string{"no gzip", ""} {
			if err := w.agent.spool.Update(func(tx *spool.Tx) error {
				tx.Put(spool.Inventories, "n1", []byte(damage))
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if _, failed := w.asked(); failed != "" {
				t.Errorf("%q: %s", damage, failed)
			}
			if doc, err := w.agent.keptInventory("n1"); err != nil || len(doc.Parts) != 2 {
				t.Errorf("kept %+v, %v", doc, err)
			}
		}
		if !strings.Contains(w.logs.String(), "the inventory on disk is replaced") {
			t.Error("nobody was told")
		}
	})
}

func TestAnExchangedServerIsBounded(t *testing.T) {
	var changes []inventory.Change
	for i := range fleet.MaxHardwareChanges + 5 {
		changes = append(changes, inventory.Change{What: inventory.Added, Path: strconv.Itoa(i)})
	}
	if n := hardwareNews("n1", time.Time{}, changes); len(n.Changes) != fleet.MaxHardwareChanges || n.More != 5 {
		t.Errorf("%d listed and %d more", len(n.Changes), n.More)
	}
	if _, err := unpack([]byte("x")); !fault.Is(err, fault.Garbage) {
		t.Errorf("got %v", err)
	}
}

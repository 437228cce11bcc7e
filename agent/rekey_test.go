package agent

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/agent/bmc/openbmc"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/bmctest"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

func (o *taker) rekey(ctx context.Context, verb scl.Verb, args ...string) fleet.Result {
	return o.agent.command(ctx, o.node(), scl.Command{Verb: verb, Args: args, Text: "(" + string(verb) + ")"}, nil)
}

// A BMC that does not answer holds the change back, and is named; an abort leaves
// nothing of it. When the BMC is back the change goes through, once by each name.
func TestAChangeOfKeyWaitsForEveryBMC(t *testing.T) {
	o := newOwner(t, bmcsim.Config{})
	second, base := bmctest.Start(t, bmcsim.Config{Serial: "S2"})
	far := newCable(t, strings.TrimPrefix(base, "https://"))
	o.cfg.Nodes = append(o.cfg.Nodes, Entry{Name: "n2", Pin: second.Pin(), Address: far.Addr().String(), TakeOver: true})
	o.start()
	o.taken()
	other := o.agent.rack.named("n2")
	await := func(what string, is func() bool) {
		t.Helper()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for over := time.After(30 * time.Second); !is(); {
			select {
			case <-tick.C:
			case <-over:
				t.Fatalf("it did not happen: %s: %+v", what, other.ledger.Record())
			}
		}
	}
	await("the second is taken", func() bool { return other.ledger.Record().Seen.Strict && other.seen().Trust.Done() })
	rack := o.agent.pass.issuer.Rack
	first := string(rack.Twin())

	far.plug("127.0.0.1:1")
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	r := o.rekey(short, scl.DoRekey, "one")
	if r.Kind != string(fault.Timeout) || !strings.Contains(r.Error, "waits for") || !strings.Contains(r.Error, "n2") || !strings.Contains(r.Hint, "--abort") {
		t.Errorf("it is told: %+v", r)
	}
	if string(rack.Twin()) != first || rack.Next() == nil {
		t.Error("it has switched without the one that does not answer")
	}
	if r := o.rekey(t.Context(), scl.DoRekeyAbort); r.Status != fleet.Confirmed {
		t.Errorf("abort: %+v", r)
	}
	if seen := o.node().ledger.Record().Seen; rack.Next() != nil || seen.NextAnchored || seen.StaleAnchors > 0 || string(rack.Twin()) != first {
		t.Errorf("the abort leaves %+v", seen)
	}
	if r := o.rekey(t.Context(), scl.DoRekey, "one"); r.Kind != string(fault.Canceled) || rack.Next() != nil {
		t.Errorf("what was aborted, done again: %+v", r)
	}

	far.plug(strings.TrimPrefix(base, "https://"))
	at := other.ledger.Record().Seen.At
	await("it answers again", func() bool { other.lookAtTakeover(); return other.ledger.Record().Seen.At.After(at) })
	for range 2 { // a run that is done again changes nothing
		if r := o.rekey(t.Context(), scl.DoRekey, "two"); r.Status != fleet.Confirmed || r.After != "key 2 of the rack" {
			t.Fatalf("the change: %+v", r)
		}
	}
	await("the old key is gone", func() bool { return rack.Before() == nil })
	for _, n := range o.agent.rack.members() {
		if r, twin := n.ledger.Record(), openbmc.Fingerprint(rack.Twin()); r.SignedBy != twin || r.ProvenBy != twin || r.Seen.StaleAnchors > 0 {
			t.Errorf("%s has not moved: %+v", n.entry.Name, r)
		}
	}

	// All of it is on disk.
	o.stop()
	o.start()
	o.taken()
	if got := o.agent.pass.issuer.Rack; string(got.Twin()) == first || got.Generation() != 2 {
		t.Errorf("after a restart it is key %d", got.Generation())
	}
}

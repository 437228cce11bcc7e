package agent

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/agent/owner"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

const blink = `(action "n1" (set-indicator on) (set-indicator off) (set-indicator on) (set-indicator off))`

// outlaw has the owner of a duo shut out amid its writes: cut off from everybody but
// the BMC it goes on, until its standby, which was granted the rack, takes it away.
func (d *duo) outlaw() {
	d.t.Helper()
	writes := 0
	held, open := d.gate.shut(func(r *http.Request) bool {
		if isWrite(r) {
			writes++
		}
		return writes == 2
	})
	defer open()
	d.run("R1", blink)
	d.until("a writes a second time", func() bool {
		select {
		case <-held:
			return true
		default:
			return false
		}
	})
	d.until("b has heard of the first write", func() bool {
		last, _ := d.a.agent.spool.Version()
		up, held, _ := d.a.agent.companion.state()
		return up && held == last
	})
	d.a.alone(true)
	d.until("b has shut a out", func() bool { return d.b.role() == owner.Active && !d.b.node().fenceDue() })
	if d.a.role() != owner.Active {
		d.t.Errorf("a is %s before it can know", d.a.role())
	}
	open()
	d.until("a yields", func() bool { return d.a.role() == owner.Standby })
}

// The old owner knows of nothing when the BMC refuses it. It yields and says why; what
// was refused is no result. The new one goes on with what was begun. Told who owns the
// rack, the old one is let in again, stands by, and works when its turn comes.
func TestAnOldOwnerIsShutOutAndLetIn(t *testing.T) {
	d := newDuo(t, bmcsim.Config{})
	d.welcome()
	for _, mark := range []string{"chiba:r1:1", "chiba:r10:1", "somebody's"} {
		d.a.subscribe(mark)
	}
	d.outlaw()
	if why := d.a.agent.office.now().Why; why != "a BMC has shut it out" {
		t.Errorf("it yields because %q", why)
	}
	if said := d.a.logs.String(); !strings.Contains(said, "a BMC has shut this agent out: another one owns the rack") || !strings.Contains(said, "node=n1") {
		t.Errorf("it says:\n%s", said)
	}
	if d.a.wrote(forbidden) == 0 {
		t.Error("no write of it was refused: nothing was shown")
	}
	for _, r := range d.a.results("R1") {
		if r.GetKind() == string(fault.Denied) {
			t.Errorf("what was refused is told as a result: %v", r)
		}
	}
	d.until("b ends the run", func() bool { return d.b.ended("R1") })
	d.until("b sweeps what a had subscribed to, and nobody else's", func() bool {
		return d.b.subscribed() == "chiba:r10:1, somebody's"
	})
	if n := len(d.a.results("R1")) + len(d.b.results("R1")); n != 4 {
		t.Errorf("the two have recorded %d results of 4 steps", n)
	}

	d.a.alone(false)
	d.until("a is let in again", func() bool {
		p := d.b.node().ledger.Record().Partner
		return p != nil && !p.Shut && d.a.agent.office.claim().Agent == "b1" && d.b.node().ledger.Record().Seen.PartnerGood
	})
	d.b.stop()
	d.until("a owns the rack again", func() bool { return d.a.role() == owner.Active })
	d.a.works()
}

// works checks that an agent's writes reach the BMC.
func (m *mate) works() {
	m.t.Helper()
	m.run("R2", blink)
	m.until("the next run is over", func() bool { return m.ended("R2") })
	for _, r := range m.results("R2") {
		if r.GetStatus() != string(fleet.Confirmed) {
			m.t.Errorf("%s has no way in: %v", m.cfg.Name, r)
		}
	}
}

// The one that has shut it out is dead and lets nobody in any more. Granted the rack,
// the old owner makes itself an administrator again in the dead one's name.
func TestAnOldOwnerThatWasShutOutByTheDead(t *testing.T) {
	d := newDuo(t, bmcsim.Config{NoTLSLogin: true})
	d.welcome()
	d.outlaw()
	d.b.stop()
	before := d.a.agent.office.claim()
	d.a.alone(false)
	d.until("a owns the rack again", func() bool { return d.a.role() == owner.Active })
	if now := d.a.agent.office.claim(); !now.After(before) || now.Epoch.Grant == 0 {
		t.Errorf("it works as %s after %s", now, before)
	}
	d.until("a ends what it had begun", func() bool { return d.a.ended("R1") })
	d.a.works()
	if d.b.start(); d.b.role() == owner.Active {
		t.Error("two own the rack")
	}
	d.until("b is let in again", func() bool {
		r := d.a.node().ledger.Record()
		return r.Partner != nil && !r.Partner.Shut && r.Seen.PartnerGood
	})
}

const subscriptions = "/redfish/v1/EventService/Subscriptions"

func (m *mate) hand() bmc.Hand {
	m.t.Helper()
	l, err := m.node().way()
	if err != nil {
		m.t.Fatal(err)
	}
	return l.(handed).Hand(bmc.Action)
}

// subscribe has the BMC deliver events somewhere, under a mark.
func (m *mate) subscribe(mark string) {
	m.t.Helper()
	_, err := m.hand().Post(m.t.Context(), subscriptions, map[string]any{"Destination": "https://127.0.0.1:1/", "Protocol": "Redfish", "Context": mark})
	if err != nil {
		m.t.Fatal(err)
	}
}

// subscribed are the marks of the subscriptions that stand.
func (m *mate) subscribed() string {
	m.t.Helper()
	var marks []string
	all, err := redfish.Members(m.t.Context(), m.hand(), subscriptions, 64)
	for _, uri := range all {
		var s struct{ Context string }
		if err == nil {
			err = redfish.Get(m.t.Context(), m.hand(), uri, &s)
		}
		marks = append(marks, s.Context)
	}
	if err != nil && !fault.Is(err, fault.NotFound) {
		m.t.Fatal(err)
	}
	slices.Sort(marks)
	return strings.Join(marks, ", ")
}

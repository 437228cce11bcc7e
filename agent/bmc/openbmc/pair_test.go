package openbmc_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/agent/bmc/openbmc"
	"github.com/chiba-mesh/chiba/agent/takeover"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

const theirAccount = "chiba-b1"

// withPartner takes a BMC over for two agents, each with an authority of its own, and
// returns the other one.
func (w *world) withPartner() *world {
	w.t.Helper()
	ca := newAuthority(w.t)
	of := func(account string, ca *authority) takeover.Partner {
		return takeover.Partner{Account: account, Twin: string(ca.Twin()), Print: openbmc.Fingerprint(ca.Twin())}
	}
	_ = w.disk.Keep(func(r takeover.Record) takeover.Record { return r.With(of(theirAccount, ca)) })
	w.finish()
	b := &world{t: w.t, bmc: w.bmc, base: w.base, ca: ca}
	b.disk = &disk{tb: w.t, ca: ca, record: w.disk.Record().HandTo(theirAccount, openbmc.Fingerprint(ca.Twin()), of(ourAccount, w.ca))}
	b.disk.renew()
	b.start()
	return b
}

func (w *world) write() error {
	w.t.Helper()
	return w.lane.Hand(bmc.Action).Patch(w.t.Context(), "/redfish/v1/Systems/system", map[string]any{"AssetTag": fmt.Sprint("by ", w.disk.Record().Account)})
}

func (w *world) shut(account string) {
	w.t.Helper()
	f := openbmc.Fence{Account: account, Others: func(mark string) bool { return strings.HasPrefix(mark, "chiba:r01:") && mark != "chiba:r01:a1" }}
	if err := openbmc.Shut(w.t.Context(), w.lane.Hand(bmc.Action), f); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) outside() bool {
	w.t.Helper()
	out, err := openbmc.ShutOut(w.t.Context(), w.lane.Hand(bmc.Action), w.disk.Record().Account)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// Either agent works on the BMC by its own certificate; who is shut out is refused at
// its next write, over the connection that it has, reads on, and can't let itself in.
func TestOneAgentShutsTheOtherOut(t *testing.T) {
	for name, sim := range map[string]bmcsim.Config{"by certificate": {}, "by token": {NoTLSLogin: true}} {
		t.Run(name, func(t *testing.T) {
			a := newWorld(t, sim)
			b := a.withPartner()
			if b.disk.Record().ProvenBy == "" { // the password that it was told with the ledger
				creds, _ := b.disk.Open(b.disk.Record().Sealed[theirAccount])
				b.disk.logins = append(b.disk.logins, credentials(theirAccount, creds))
			}
			for _, w := range []*world{a, b} {
				if err := w.write(); err != nil || w.outside() {
					t.Fatalf("%s can't write: %v", w.disk.Record().Account, err)
				}
			}
			b.shut(ourAccount)
			if err := a.write(); !fault.Is(err, fault.Denied) {
				t.Errorf("the old owner writes on: %v", err)
			}
			if !a.outside() || b.outside() {
				t.Error("who is shut out is not seen")
			}
			if err := openbmc.LetIn(t.Context(), a.lane.Hand(bmc.Action), ourAccount); err == nil {
				t.Error("it has let itself in")
			}
			if err := b.write(); err != nil {
				t.Errorf("the new owner: %v", err)
			}
			if err := openbmc.LetIn(t.Context(), b.lane.Hand(bmc.Action), ourAccount); err != nil {
				t.Error(err)
			}
			if err := a.write(); err != nil {
				t.Errorf("it was let in again: %v", err)
			}
		})
	}
}

func credentials(user string, password fleet.Secret) redfish.Credentials {
	return redfish.Credentials{User: user, Password: password}
}

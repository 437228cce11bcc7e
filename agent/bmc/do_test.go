package bmc_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/bmctest"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

func command(verb scl.Verb, args ...string) scl.Command {
	return scl.Command{Verb: verb, Args: args, Text: "(" + string(verb) + " " + strings.Join(args, " ") + ")"}
}

func bootOnce(target string) scl.Command {
	c := command(scl.DoBoot, target)
	c.Once = true
	return c
}

// line is what a person wants to know of a result.
func line(r fleet.Result) string {
	text := fmt.Sprintf("%s: %s, %q -> %q", r.Step, r.Status, r.Before, r.After)
	if r.Error != "" {
		text += fmt.Sprintf(" (%s: %s)", r.Kind, r.Error)
	}
	return text
}

func TestCommands(t *testing.T) {
	clock := &later{} // two resets within one second look like one
	_, _, l := start(t, quick(clock.of, func(c *bmcsim.Config) { c.PowerOn = false }))
	var got []string
	for _, cmd := range []scl.Command{
		command(scl.DoReboot), command(scl.DoPower, "on"), command(scl.DoPower, "on"), command(scl.DoStartImage, "n1", "debian"),
		bootOnce("pxe"), command(scl.DoBoot, "moon"), command(scl.DoReboot), command(scl.DoReboot, "other"), command(scl.DoPower, "cycle"),
		command(scl.DoPower, "reset"), command(scl.DoPower, "nmi"), command(scl.DoIndicator, "on"), command(scl.DoIndicator, "on"),
		command(scl.DoIndicator, "blink"), command(scl.DoClearLog), command(scl.DoPower, "graceful-off"), command(scl.DoPower, "off"),
		command(scl.DoBoot, "none"), command(scl.DoStartImage, "n1", "debian"), command(scl.DoPower, "off"), command(scl.DoLog, "x"),
		command(scl.DoBMCReset),
	} {
		got = append(got, line(l.Do(t.Context(), cmd)))
		clock.pass(2 * time.Second)
	}
	want := []string{
		`(reboot ): failed, "off" -> "" (conflict: power reboot: the server is off)`,
		`(power on): confirmed, "off" -> "on"`,
		`(power on): unchanged, "on" -> "on"`,
		`(start-new-server-with-image n1 debian): skipped, "on" -> "on" (conflict: start the server: already running: a running server is never reset by this command)`,
		`(boot pxe): confirmed, "none" -> "pxe"`,
		`(boot moon): unsupported, "pxe" -> "" (unsupported: set the boot target: this BMC boots from none, pxe, hdd, cd, diags, biossetup, usb, not from moon)`,
		`(reboot ): confirmed, "on" -> "on"`,
		`(reboot other): failed, "" -> "" (not-found: reboot: this node is system "system" of its BMC, not "other")`,
		`(power cycle): confirmed, "on" -> "on"`,
		`(power reset): confirmed, "on" -> "on"`,
		`(power nmi): attempted, "on" -> ""`,
		`(set-indicator on): confirmed, "off" -> "on"`,
		`(set-indicator on): unchanged, "on" -> "on"`,
		`(set-indicator blink): unsupported, "on" -> "" (unsupported: set the indicator: the light of this server is on or off, it can't blink)`,
		`(clear-log ): confirmed, "7 entries" -> "0 entries"`,
		`(power graceful-off): confirmed, "on" -> "off"`,
		`(power off): unchanged, "off" -> "off"`,
		`(boot none): confirmed, "none" -> "none"`,
		`(start-new-server-with-image n1 debian): confirmed, "off" -> "on, booting once from the network; the site's boot server must serve image \"debian\""`,
		`(power off): confirmed, "on" -> "off"`,
		`(log x): unsupported, "" -> "" (unsupported: log: this is no command for a BMC)`,
		`(bmc-reset ): attempted, "" -> "" (: the BMC accepted it and will not answer for some minutes)`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// One-time PXE and a restart, one after the other, on a lane that knows its BMC:
// three requests until the BMC has accepted both, one of them the read-back of the
// boot target, over the connection that is open. What follows only watches the
// restart. See TestPairIsThreeRequests for the two as one.
func TestRequestsOfPXEThenRestart(t *testing.T) {
	b, _, l := start(t, quick())
	warmUp(t, l)
	b.ResetStats()
	for _, cmd := range []scl.Command{bootOnce("pxe"), command(scl.DoPower, "reset")} {
		if r := l.Do(t.Context(), cmd); r.Status != fleet.Confirmed {
			t.Fatal(line(r))
		}
	}
	requests := strings.Split(asked(b), "\n")
	want := []string{
		"PATCH /redfish/v1/Systems/system", "GET /redfish/v1/Systems/system", "POST /redfish/v1/Systems/system/Actions/ComputerSystem.Reset",
	}
	if diff := cmp.Diff(want, requests[:3]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, r := range requests[3:] {
		if r != "GET /redfish/v1/Systems/system" {
			t.Errorf("%s while watching the restart", r)
		}
	}
	if s := b.Stats(); s.Handshakes != 0 || s.Writes != 2 || s.Sessions != 1 {
		t.Errorf("%d handshakes, %d writes, %d sessions; want 0, 2, 1", s.Handshakes, s.Writes, s.Sessions)
	}
}

// The same on a lane that has never seen its BMC: the root, the login, the way
// to the system, and what may be reset. Closed, it leaves no session.
func TestRequestsOfAColdLane(t *testing.T) {
	b, _, l := start(t, quick())
	for _, cmd := range []scl.Command{bootOnce("pxe"), command(scl.DoPower, "reset")} {
		if r := l.Do(t.Context(), cmd); r.Status != fleet.Confirmed {
			t.Fatal(line(r))
		}
	}
	want := []string{
		"GET /redfish/v1/", "POST /redfish/v1/SessionService/Sessions", "GET /redfish/v1/Systems", "GET /redfish/v1/Systems/system",
		"PATCH /redfish/v1/Systems/system", "GET /redfish/v1/Systems/system", "GET /redfish/v1/Systems/system/ResetActionInfo",
		"POST /redfish/v1/Systems/system/Actions/ComputerSystem.Reset",
	}
	if diff := cmp.Diff(want, strings.Split(asked(b), "\n")[:len(want)]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := b.Stats(); s.Handshakes != 1 || s.Sessions != 0 {
		t.Errorf("%d handshakes, %d sessions; want 1, 0", s.Handshakes, s.Sessions)
	}
}

// warmUp has the lane learn where things are and what may be reset.
func warmUp(tb testing.TB, l *bmc.Lane) {
	tb.Helper()
	if r := l.Do(tb.Context(), command(scl.DoPower, "nmi")); r.Status != fleet.Attempted {
		tb.Fatal(line(r))
	}
	if _, err := l.Summary(tb.Context()); err != nil {
		tb.Fatal(err)
	}
}

// A write of which no answer came back is judged by what is read back.
func TestUncertainWrites(t *testing.T) {
	b, base := bmctest.Start(t, quick())
	l := open(t, b, base, newStore(bmcsim.DefaultPassword), func(c *bmc.Config) { c.BMC.Limits.Write = time.Second })
	warmUp(t, l)
	if err := b.Fault(bmcsim.Fault{Kind: bmcsim.Hang, For: 800 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	r := l.Do(t.Context(), bootOnce("pxe"))
	if r.Status == fleet.Confirmed || r.Status.OK() || r.Kind == "" {
		t.Errorf("the BMC hung and heard nothing: %s", line(r))
	}
}

func TestStuckServerIsUnknown(t *testing.T) {
	b, base := bmctest.Start(t, quick(func(c *bmcsim.Config) { c.Transition = time.Hour }))
	l := open(t, b, base, newStore(bmcsim.DefaultPassword), func(c *bmc.Config) { c.Settle = 50 * time.Millisecond })
	r := l.Do(t.Context(), command(scl.DoPower, "graceful-off"))
	if r.Status != fleet.Unknown || r.Kind != string(fault.Timeout) || r.Hint == "" {
		t.Errorf("a server that never goes off: %s, hint %q", line(r), r.Hint)
	}
}

func TestReadOnlyAccountIsDenied(t *testing.T) {
	b, s, l := start(t, quick())
	out := l.Apply(t.Context(), []scl.Setting{userSecret("auditor", "Audit-Pass-1"), userRole("auditor", "ReadOnly")})
	if !out[0].Status.OK() {
		t.Fatal(line(out[0]))
	}
	s.logins[0].User, s.logins[0].Password = "auditor", fleet.NewSecret("Audit-Pass-1")
	if err := b.ForgetSessions(); err != nil {
		t.Fatal(err)
	}
	r := l.Do(t.Context(), command(scl.DoPower, "off"))
	if r.Status != fleet.Failed || r.Kind != string(fault.Denied) || r.Hint == "" {
		t.Errorf("%s, hint %q", line(r), r.Hint)
	}
}

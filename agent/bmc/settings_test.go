package bmc_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/bmctest"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

func field(resource scl.Resource, name, field string, value fleet.Value) scl.Setting {
	return scl.Setting{Resource: resource, Name: name, Field: field, Value: value}
}

func userSecret(user, password string) scl.Setting {
	return scl.Setting{Resource: scl.User, Name: user, Field: "password", Secret: scl.Secret{Literal: fleet.NewSecret(password)}}
}

func userRole(user, role string) scl.Setting { return field(scl.User, user, "role", fleet.Text(role)) }

const gigabyte = 1e9

// everything is a configuration with every resource.
func everything() []scl.Setting {
	return []scl.Setting{
		field(scl.Power, "", "state", fleet.Text("on")),
		field(scl.Boot, "", "target", fleet.Text("pxe")),
		field(scl.Boot, "", "once", fleet.Bool(true)),
		field(scl.Boot, "", "mode", fleet.Text("uefi")),
		field(scl.AssetTag, "", "", fleet.Text("rack 7")),
		field(scl.Indicator, "", "", fleet.Text("on")),
		field(scl.Interface, "eth0", "ip", fleet.Text("10.0.0.5")),
		field(scl.Interface, "eth0", "netmask", fleet.Text("255.255.255.0")),
		field(scl.Interface, "eth0", "gateway", fleet.Text("10.0.0.1")),
		field(scl.Device, "sda", "size", fleet.Number(500*gigabyte, fleet.Byte)),
		field(scl.Device, "sda", "type", fleet.Text("SSD")),
		field(scl.Device, "sdb", "size", fleet.Number(500*gigabyte, fleet.Byte)),
		userSecret("root", "a-New-Pass-9"),
		userSecret("ops", "Ops-Pass-2026"),
		userRole("ops", "Operator"),
	}
}

func plans(changes []fleet.Change) (all []string) {
	for _, c := range changes {
		text := fmt.Sprintf("%s: %s, %q -> %q", c.Path, c.Verdict, c.Before, c.After)
		if c.Note != "" {
			text += " (" + c.Note + ")"
		}
		all = append(all, text)
	}
	return all
}

func applied(results []fleet.Result) (all []string) {
	for _, r := range results {
		r.Step = r.Path
		all = append(all, line(r))
	}
	return all
}

func TestPlanApplyPlan(t *testing.T) {
	b, s, l := start(t, quick(func(c *bmcsim.Config) { c.PowerOn = false }))
	before := b.Stats().Writes
	got := plans(l.Plan(t.Context(), everything()))
	want := []string{
		`power.state: differs, "off" -> "on"`,
		`boot.target: differs, "none" -> "pxe"`,
		`boot.once: differs, "#f" -> "#t"`,
		`boot.mode: same, "uefi" -> "uefi"`,
		`asset-tag: differs, "" -> "rack 7"`,
		`indicator: differs, "off" -> "on"`,
		`network.eth0.ip: unsupported, "" -> "10.0.0.5" (not supported by this BMC: it shows no host network interface)`,
		`network.eth0.netmask: unsupported, "" -> "255.255.255.0" (not supported by this BMC: it shows no host network interface)`,
		`network.eth0.gateway: unsupported, "" -> "10.0.0.1" (not supported by this BMC: it shows no host network interface)`,
		`storage.sda.size: same, "500.108GB" -> "500GB"`,
		`storage.sda.type: same, "SSD" -> "SSD"`,
		`storage.sdb.size: differs, "absent" -> "500GB" (there is no such drive)`,
		`bmc.user.root.password: differs, "(secret)" -> "(secret)"`,
		`bmc.user.ops.password: differs, "(secret)" -> "(secret)" (this BMC has no such user; it will be made)`,
		`bmc.user.ops.role: differs, "absent" -> "Operator" (this BMC has no such user; it will be made)`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the plan (-want +got):\n%s", diff)
	}
	if b.Stats().Writes != before {
		t.Error("a plan wrote something")
	}

	got = applied(l.Apply(t.Context(), everything()))
	want = []string{
		`power.state: confirmed, "off" -> "on"`,
		`boot.target: confirmed, "none" -> "pxe"`,
		`boot.once: confirmed, "#f" -> "#t"`,
		`boot.mode: unchanged, "uefi" -> "uefi"`,
		`asset-tag: confirmed, "" -> "rack 7"`,
		`indicator: confirmed, "off" -> "on"`,
		`network.eth0.ip: unsupported, "" -> "10.0.0.5" (unsupported: not supported by this BMC: it shows no host network interface)`,
		`network.eth0.netmask: unsupported, "" -> "255.255.255.0" (unsupported: not supported by this BMC: it shows no host network interface)`,
		`network.eth0.gateway: unsupported, "" -> "10.0.0.1" (unsupported: not supported by this BMC: it shows no host network interface)`,
		`storage.sda.size: unchanged, "500.108GB" -> "500GB"`,
		`storage.sda.type: unchanged, "SSD" -> "SSD"`,
		`storage.sdb.size: failed, "absent" -> "500GB" (conflict: check the storage: the hardware is not what the script says; a device is checked, never made)`,
		`bmc.user.root.password: confirmed, "(secret)" -> "(secret)"`,
		`bmc.user.ops.password: confirmed, "(secret)" -> "(secret)"`,
		`bmc.user.ops.role: confirmed, "absent" -> "Operator"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what was applied (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"propose", "prove", "digest of root", "digest of ops"}, s.diary); diff != "" {
		t.Errorf("the store (-want +got):\n%s", diff)
	}

	b.ResetStats()
	for _, c := range l.Plan(t.Context(), everything()) {
		if c.Verdict != fleet.Same && c.Verdict != fleet.Unsupported && c.Path != "storage.sdb.size" {
			t.Errorf("a second plan still shows %s: %s, %q", c.Path, c.Verdict, c.Before)
		}
	}
	l.Apply(t.Context(), everything())
	if n := b.Stats().Writes; n != 0 {
		t.Errorf("a second apply wrote %d times", n)
	}
	if n := b.Stats().Sessions; n != 1 {
		t.Errorf("%d sessions; want ours", n)
	}
}

func TestOnlyTheDifferenceIsWrittenAtOnce(t *testing.T) {
	b, _, l := start(t, quick())
	l.Apply(t.Context(), []scl.Setting{field(scl.Boot, "", "target", fleet.Text("pxe")), field(scl.Boot, "", "once", fleet.Bool(true))})
	if n := b.Stats().Writes; n != 1 {
		t.Errorf("%d writes for two fields of one resource; want 1", n)
	}
}

func TestHostInterface(t *testing.T) {
	b, _, l := start(t, quick(func(c *bmcsim.Config) {
		c.HostNIC = &bmcsim.NIC{Address: "10.0.0.9", Netmask: "255.255.0.0", Gateway: "10.0.0.1", DHCP: true}
	}))
	settings := []scl.Setting{
		field(scl.Interface, "eth0", "ip", fleet.Text("10.0.0.5")), field(scl.Interface, "eth0", "netmask", fleet.Text("255.255.255.0")),
		field(scl.Interface, "eth0", "gateway", fleet.Text("10.0.0.1")), field(scl.Interface, "eth0", "dhcp", fleet.Bool(false)),
	}
	want := []string{
		`network.eth0.ip: confirmed, "10.0.0.9" -> "10.0.0.5"`, `network.eth0.netmask: confirmed, "255.255.0.0" -> "255.255.255.0"`,
		`network.eth0.gateway: unchanged, "10.0.0.1" -> "10.0.0.1"`, `network.eth0.dhcp: confirmed, "#t" -> "#f"`,
	}
	if diff := cmp.Diff(want, applied(l.Apply(t.Context(), settings))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n := b.Stats().Writes; n != 1 {
		t.Errorf("%d writes", n)
	}
	got, err := l.Read(t.Context(), bmc.Person, refs(t, "network.ip", "network.link"))
	if err != nil || !strings.Contains(shown(got), "network.ip 10.0.0.5") {
		t.Errorf("%v, %s", err, shown(got))
	}
	other := plans(l.Plan(t.Context(), []scl.Setting{field(scl.Interface, "eth1", "ip", fleet.Text("10.0.0.5"))}))
	if !strings.Contains(other[0], `unsupported`) || !strings.Contains(other[0], "eth0") {
		t.Errorf("another interface: %s", other)
	}
}

func TestRefusedPasswordTellsTheRule(t *testing.T) {
	_, s, l := start(t, quick())
	for _, user := range []string{"root", "newcomer"} {
		out := l.Apply(t.Context(), []scl.Setting{userSecret(user, "short"), userRole(user, "Administrator")})
		if r := out[0]; r.Status != fleet.Failed || !strings.Contains(r.Error, "8 to 20 characters") || strings.Contains(r.Error, "short") {
			t.Errorf("%s: %s", user, line(r))
		}
	}
	if len(s.logins) != 1 || s.logins[0].Password.Reveal() != bmcsim.DefaultPassword {
		t.Error("the vault does not hold the password that is still in force alone")
	}
	if _, err := l.Summary(t.Context()); err != nil {
		t.Errorf("locked out: %v", err)
	}
}

// The agent dies between keeping the new password and hearing the BMC's answer:
// whichever of the two is in force, the next life gets in.
func TestPasswordChangeSurvivesACrash(t *testing.T) {
	for _, arrived := range []bool{true, false} {
		b, base := bmctest.Start(t, quick())
		s := newStore(bmcsim.DefaultPassword)
		next := redfish.Credentials{User: "root", Password: fleet.NewSecret("a-New-Pass-9")}
		if arrived {
			l := open(t, b, base, s, nil)
			if r := l.Apply(t.Context(), []scl.Setting{userSecret("root", "a-New-Pass-9")}); r[0].Status != fleet.Confirmed {
				t.Fatal(line(r[0]))
			}
			s = newStore(bmcsim.DefaultPassword) // the disk as it was before the BMC answered
		}
		if err := s.Propose("b1", next); err != nil {
			t.Fatal(err)
		}
		heir := open(t, b, base, s, nil)
		if _, err := heir.Summary(t.Context()); err != nil {
			t.Fatalf("arrived %v: %v", arrived, err)
		}
		if len(s.logins) != 1 || (s.logins[0] == next) != arrived {
			t.Errorf("arrived %v: the vault is not settled", arrived)
		}
	}
}

// A take-over switches root off: a login with its new password would only count as
// a failed one.
func TestPasswordOfAnAccountThatIsOff(t *testing.T) {
	b, _, l := start(t, quick())
	if r := l.Apply(t.Context(), []scl.Setting{userSecret("ops", "Ops-Pass-2026"), userRole("ops", "Operator")}); r[0].Status != fleet.Confirmed {
		t.Fatal(line(r[0]))
	}
	off := map[string]any{"Enabled": false}
	if err := l.Hand(bmc.Action).Patch(t.Context(), "/redfish/v1/AccountService/Accounts/ops", off); err != nil {
		t.Fatal(err)
	}
	b.ResetStats()
	r := l.Apply(t.Context(), []scl.Setting{userSecret("ops", "Ops-Pass-2027")})[0]
	if r.Status != fleet.Attempted || !strings.Contains(r.Error, "switched off") {
		t.Error(line(r))
	}
	if all := asked(b); strings.Contains(all, "POST") {
		t.Errorf("it was tried:\n%s", all)
	}
}

func TestAnUnopenedSecretIsNotSet(t *testing.T) {
	b, _, l := start(t, quick())
	sealed := scl.Setting{Resource: scl.User, Name: "root", Field: "password", Secret: scl.Secret{Sealed: "xyz"}}
	if r := l.Apply(t.Context(), []scl.Setting{sealed}); r[0].Status != fleet.Failed || b.Stats().Writes != 0 {
		t.Errorf("%s after %d writes", line(r[0]), b.Stats().Writes)
	}
}

package bmc_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/bmctest"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// A fresh OpenBMC shows nothing until the password of its account is changed.
func TestFreshBMCGetsItsPassword(t *testing.T) {
	const demand = `{"error":{"@Message.ExtendedInfo":[{"MessageId":"Base.1.19.PasswordChangeRequired","Message":"The password must be changed.",` +
		`"MessageArgs":["/redfish/v1/AccountService/Accounts/root"]}]}}`
	var changed atomic.Bool
	v := &vendor{docs: idrac()}
	v.hook = func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case changed.Load() || r.URL.Path == "/redfish/v1/" || r.URL.Path == "/redfish/v1/Sessions":
			return false
		case r.Method == http.MethodPatch && r.URL.Path == "/redfish/v1/AccountService/Accounts/root":
			body, _ := io.ReadAll(r.Body)
			changed.Store(string(body) == `{"Password":"Fresh-Pass-1"}`)
			w.WriteHeader(http.StatusNoContent)
		default:
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, demand)
		}
		return true
	}
	st, l := v.start(t, nil)
	if _, err := l.Summary(t.Context()); !fault.Is(err, fault.Denied) {
		t.Errorf("got %v; want denied", err)
	}
	if state, reason := l.State(); state != fleet.Refused || !strings.Contains(reason, "must be changed") {
		t.Errorf("the node is %s: %s", state, reason)
	}
	old := l.Plan(t.Context(), []scl.Setting{userSecret("root", "calvin")})
	if old[0].Verdict != fleet.Differs || !strings.Contains(old[0].Note, "choose another") {
		t.Errorf("the old password again: %+v", old[0])
	}
	out := l.Apply(t.Context(), []scl.Setting{userSecret("root", "Fresh-Pass-1")})
	if out[0].Status != fleet.Confirmed {
		t.Fatal(line(out[0]))
	}
	if got := strings.Join(st.diary, ", "); got != "propose, prove, digest of root" {
		t.Errorf("the vault saw %s", got)
	}
	if _, err := l.Summary(t.Context()); err != nil {
		t.Error(err)
	}
	if state, reason := l.State(); state != fleet.Ready {
		t.Errorf("the node is %s: %s", state, reason)
	}
}

// A PATCH that begins a task is done when the task is; what is then read back
// decides.
func TestAWriteThatBeginsATask(t *testing.T) {
	for _, c := range []struct {
		end  string
		want fleet.Status
		says string
	}{
		{`{"TaskState":"Completed","TaskStatus":"OK"}`, fleet.Confirmed, ""},
		{`{"TaskState":"Exception","Messages":[{"Message":"The job failed."}]}`, fleet.Failed, "The job failed."},
	} {
		v := &vendor{docs: idrac()}
		uri := "/redfish/v1/Systems/System.Embedded.1"
		v.docs[uri] = strings.Replace(v.docs[uri], `"AssetTag":null`, `"AssetTag":"old"`, 1)
		looks := 0
		v.hook = func(w http.ResponseWriter, r *http.Request) bool {
			switch {
			case r.Method == http.MethodPatch:
				v.mu.Lock()
				defer v.mu.Unlock()
				v.docs[uri] = strings.Replace(v.docs[uri], `"AssetTag":"old"`, `"AssetTag":"r7"`, 1)
				w.Header().Set("Location", "/redfish/v1/TaskService/Tasks/JID_1")
				w.WriteHeader(http.StatusAccepted)
			case strings.HasSuffix(r.URL.Path, "JID_1"):
				looks++
				_, _ = io.WriteString(w, c.end)
			default:
				return false
			}
			return true
		}
		_, l := v.start(t, func(c *bmc.Config) { c.Settle = 10 * time.Second })
		out := l.Apply(t.Context(), []scl.Setting{field(scl.AssetTag, "", "", fleet.Text("r7"))})
		if out[0].Status != c.want || !strings.Contains(out[0].Error, c.says) || looks != 1 {
			t.Errorf("%d looks, %s", looks, line(out[0]))
		}
	}
}

// The BMC restarts between the write and the read-back: sessions are gone, the
// connection too. What it then shows decides.
func TestBMCRestartsAmidAChange(t *testing.T) {
	b, base := bmctest.Start(t, quick())
	l := open(t, b, base, newStore(bmcsim.DefaultPassword), nil)
	warmUp(t, l)
	for i := range 3 {
		if err := b.ForgetSessions(); err != nil {
			t.Fatal(err)
		}
		if err := b.Fault(bmcsim.Fault{Kind: bmcsim.Drop, For: 20 * time.Millisecond}); err != nil {
			t.Fatal(err)
		}
		tag := fmt.Sprintf("rack-%d", i)
		out := l.Apply(t.Context(), []scl.Setting{field(scl.AssetTag, "", "", fleet.Text(tag))})
		if s := out[0].Status; s != fleet.Confirmed && s != fleet.Failed && s != fleet.Unknown {
			t.Errorf("%s", line(out[0]))
		}
		if out[0].Status != fleet.Confirmed && out[0].Hint == "" && out[0].Error == "" {
			t.Errorf("it failed without a reason: %s", line(out[0]))
		}
	}
	for range 200 { // it is back: the breaker lets through one probe after its rest
		if out := l.Apply(t.Context(), []scl.Setting{field(scl.AssetTag, "", "", fleet.Text("end"))}); out[0].Status == fleet.Confirmed || out[0].Status == fleet.Unchanged {
			if n := b.Stats().Sessions; n != 1 {
				t.Errorf("%d sessions; want 1", n)
			}
			return
		}
		<-time.After(20 * time.Millisecond)
	}
	t.Error("the lane does not come back to a BMC that is well again")
}

// A power command that the BMC refuses for a while, as iDRACs do shortly after
// another, is asked for again for as long as its make needs.
func TestPowerIsAskedForAgain(t *testing.T) {
	v := &vendor{docs: idrac()}
	off := strings.Replace(v.docs["/redfish/v1/Systems/System.Embedded.1"], `"PowerState":"On"`, `"PowerState":"Off"`, 1)
	on := v.docs["/redfish/v1/Systems/System.Embedded.1"]
	v.docs["/redfish/v1/Systems/System.Embedded.1"] = off
	refusals := 8
	v.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost || strings.HasSuffix(r.URL.Path, "Sessions") {
			return false
		}
		if refusals--; refusals >= 0 {
			w.WriteHeader(http.StatusConflict)
			return true
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		v.docs["/redfish/v1/Systems/System.Embedded.1"] = on
		return true
	}
	_, l := v.start(t, func(c *bmc.Config) { c.Settle = time.Second })
	if r := l.Do(t.Context(), command(scl.DoPower, "on")); r.Status != fleet.Confirmed {
		t.Errorf("%s after %d refusals", line(r), 8-refusals)
	}
	refusals = 1 << 30
	v.mu.Lock()
	v.docs["/redfish/v1/Systems/System.Embedded.1"] = off
	v.mu.Unlock()
	_, l = v.start(t, func(c *bmc.Config) { c.Poll = 500 * time.Millisecond })
	r := l.Do(t.Context(), command(scl.DoPower, "on"))
	if r.Status != fleet.Failed || r.Kind != string(fault.Conflict) {
		t.Errorf("a BMC that always refuses: %s", line(r))
	}
}

func TestRequestsOfAKilledAgent(t *testing.T) {
	b, base := bmctest.Start(t, quick())
	s := newStore(bmcsim.DefaultPassword)
	for range 3 { // killed three times: never closed
		l, err := bmc.New(bmc.Config{Node: "n1", Vault: s, BMC: redfish.Config{
			BMC: "b1", Address: strings.TrimPrefix(base, "https://"), Pin: b.Pin(), Sessions: s, Context: "chiba:r01:a1",
		}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Summary(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := b.Stats().Sessions; n != 1 {
			t.Errorf("%d sessions; want 1: the next life reaps the last one's", n)
		}
	}
	l := open(t, b, base, s, nil)
	if _, err := l.Summary(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(0, b.Stats().Sessions); diff != "" || s.open {
		t.Errorf("sessions (-want +got):\n%s remembered: %v", diff, s.open)
	}
}

// A Supermicro sets the boot mode to its default unless it is repeated; an
// iDRAC10 takes the boot source only by its settings resource.
func TestBootOfOddMakes(t *testing.T) {
	const uri = "/redfish/v1/Systems/System.Embedded.1"
	for _, c := range []struct {
		name, root, system string
		readOnly           bool
		want               []string
	}{
		{
			name: "generic", system: `"BootSourceOverrideMode":"UEFI"`,
			want: []string{uri + ` {"Boot":{"BootSourceOverrideEnabled":"Once","BootSourceOverrideTarget":"Pxe"}}`},
		},
		{
			name: "Supermicro", root: `"Vendor":"Supermicro",`, system: `"BootSourceOverrideMode":"UEFI"`,
			want: []string{uri + ` {"Boot":{"BootSourceOverrideEnabled":"Once","BootSourceOverrideMode":"UEFI","BootSourceOverrideTarget":"Pxe"}}`},
		},
		{
			name: "read-only", system: `"BootSourceOverrideMode":"UEFI"`, readOnly: true,
			want: []string{
				uri + ` {"Boot":{"BootSourceOverrideEnabled":"Once","BootSourceOverrideTarget":"Pxe"}}`,
				uri + `/Settings {"Boot":{"BootSourceOverrideEnabled":"Once","BootSourceOverrideTarget":"Pxe"}}`,
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := &vendor{docs: idrac()}
			v.docs["/redfish/v1/"] = strings.Replace(v.docs["/redfish/v1/"], `{"Systems"`, `{`+c.root+`"Systems"`, 1)
			v.docs[uri] = strings.Replace(v.docs[uri], `"Boot":{`, `"Boot":{`+c.system+`,`, 1)
			if c.readOnly {
				v.docs[uri] = strings.Replace(idrac()[uri], `"Boot":{`, `"@Redfish.Settings":{"SettingsObject":{"@odata.id":"`+uri+`/Settings"}},"Boot":{`, 1)
			}
			var got []string
			v.hook = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPatch {
					return false
				}
				body, _ := io.ReadAll(r.Body)
				got = append(got, r.URL.Path+" "+string(body))
				if c.readOnly && r.URL.Path == uri {
					w.WriteHeader(http.StatusBadRequest)
					_, _ = io.WriteString(w, `{"error":{"@Message.ExtendedInfo":[{"MessageId":"Base.1.18.PropertyNotWritable"}]}}`)
					return true
				}
				v.mu.Lock()
				defer v.mu.Unlock()
				v.docs[uri] = strings.Replace(v.docs[uri], `"BootSourceOverrideTarget":"UefiHttp"`, `"BootSourceOverrideTarget":"Pxe"`, 1)
				return true
			}
			_, l := v.start(t, nil)
			if r := l.Do(t.Context(), bootOnce("pxe")); r.Status != fleet.Confirmed {
				t.Error(line(r))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

package bmc_test

import (
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/bmctest"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// later is a clock that can be moved on; reset times count in whole seconds.
type later struct{ by atomic.Int64 }

func (c *later) now() time.Time            { return time.Now().Add(time.Duration(c.by.Load())) }
func (c *later) pass(d time.Duration)      { c.by.Add(int64(d)) }
func (c *later) of(cfg *bmcsim.Config)     { cfg.Now = c.now }
func proceed(fleet.Result) error           { return nil }
func hurried(cfg *bmcsim.Config)           { cfg.Transition, cfg.Latency = time.Millisecond, 20*time.Millisecond }
func pxeAndReset() (boot, rst scl.Command) { return bootOnce("pxe"), command(scl.DoPower, "reset") }

// oneLook has the lane see its server, and a while pass.
func oneLook(t *testing.T, b *bmcsim.BMC, l *bmc.Lane, c *later) {
	t.Helper()
	if _, err := l.Summary(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.pass(5 * time.Second)
	b.ResetStats()
}

// The exact gate of W1: one-time PXE and a restart on a lane that has looked at its
// server once are three requests over the connection that is open. The process
// then dies; its heir does the same over one connection of its own and leaves no
// session of either.
func TestPairIsThreeRequests(t *testing.T) {
	c := &later{}
	b, base := bmctest.Start(t, quick(c.of, hurried))
	s := newStore(bmcsim.DefaultPassword)
	var l *bmc.Lane
	for life := range 2 {
		l = open(t, b, base, s, nil) // the first is never closed before the second begins
		handshakes := b.Stats().Handshakes
		oneLook(t, b, l, c)
		boot, restart := pxeAndReset()
		got, err := l.BootAndRestart(t.Context(), boot, restart, proceed)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{
			`(boot pxe): attempted, "none" -> "none" (: the BMC accepted it; the restart was over before it could be read back, and has used it up)`,
			`(power reset): confirmed, "on" -> "on"`,
		}
		if diff := cmp.Diff(want, lines(got)); diff != "" {
			t.Errorf("life %d (-want +got):\n%s", life, diff)
		}
		if diff := cmp.Diff("PATCH /redfish/v1/Systems/system\nPOST /redfish/v1/Systems/system/Actions/ComputerSystem.Reset\nGET /redfish/v1/Systems/system", asked(b)); diff != "" {
			t.Errorf("life %d (-want +got):\n%s", life, diff)
		}
		if st := b.Stats(); st.Handshakes != 0 || st.Sessions != 1 || handshakes > life {
			t.Errorf("life %d: %d handshakes, %d of them for the pair, %d sessions", life, handshakes+1, st.Handshakes, st.Sessions)
		}
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := b.Stats().Sessions; n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

func lines(results []fleet.Result) (all []string) {
	for _, r := range results {
		all = append(all, line(r))
	}
	return all
}

// A server takes longer than a request, so that the look shows the boot target
// before the boot uses it.
func TestPairReadsBackBoth(t *testing.T) {
	c := &later{}
	b, base := bmctest.Start(t, quick(c.of))
	l := open(t, b, base, newStore(bmcsim.DefaultPassword), nil)
	oneLook(t, b, l, c)
	var first fleet.Result
	got, err := l.BootAndRestart(t.Context(), command(scl.DoBoot, "pxe"), command(scl.DoReboot), func(r fleet.Result) error {
		first = r
		if b.Stats().Requests[http.MethodPost] != 0 {
			t.Error("it restarted before anybody could note it")
		}
		return nil
	})
	if err != nil || first.Status != fleet.Attempted || first.Error == "" {
		t.Errorf("%v, at first %s", err, line(first))
	}
	if diff := cmp.Diff([]string{`(boot pxe): confirmed, "none" -> "pxe"`, `(reboot ): confirmed, "on" -> "on"`}, lines(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPairGoneWrong(t *testing.T) {
	for name, c := range map[string]struct {
		fault   bmcsim.FaultKind
		begin   error
		want    []string
		posts   int
		restart string
	}{
		"the change is accepted and not made": {
			fault: bmcsim.Deaf, restart: "reset", posts: 1,
			want: []string{
				`(boot pxe): failed, "none" -> "none" (conflict: read back the boot target: the BMC accepted it and still shows none)`,
				`(power reset): confirmed, "on" -> "on"`,
			},
		},
		"the change is refused": {
			fault: bmcsim.Broken, restart: "reset",
			want: []string{`(boot pxe): failed, "none" -> "" (unavailable: `},
		},
		"the answer is no JSON": {
			fault: bmcsim.Garbage, restart: "reset",
			want: []string{`(boot pxe): unknown, "none" -> "" (garbage: `},
		},
		"it can't be noted": {begin: errors.New("disk full"), restart: "reset"},
		"the type of restart is offered": {
			restart: "graceful-restart", posts: 1, // OpenBMC offers it: no more than one request
			want: []string{`(boot pxe): confirmed, "none" -> "pxe"`, `(power graceful-restart): confirmed, "on" -> "on"`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			clock := &later{}
			b, base := bmctest.Start(t, quick(clock.of))
			l := open(t, b, base, newStore(bmcsim.DefaultPassword), nil)
			oneLook(t, b, l, clock)
			if c.fault != "" {
				if err := b.Fault(bmcsim.Fault{Kind: c.fault}); err != nil {
					t.Fatal(err)
				}
			}
			got, err := l.BootAndRestart(t.Context(), bootOnce("pxe"), command(scl.DoPower, c.restart), func(fleet.Result) error { return c.begin })
			if !errors.Is(err, c.begin) || len(got) != len(c.want) {
				t.Fatalf("%v, %q", err, lines(got))
			}
			for i, r := range lines(got) {
				if !strings.HasPrefix(r, c.want[i]) {
					t.Errorf("%s; want %s", r, c.want[i])
				}
			}
			if n := b.Stats().Requests[http.MethodPost]; n != c.posts {
				t.Errorf("%d restarts were asked for", n)
			}
		})
	}
}

// Where the two can't be one nothing is changed, and Do does them one by one.
func TestNoPair(t *testing.T) {
	boot, restart := pxeAndReset()
	for name, c := range map[string]struct {
		boot, restart scl.Command
		before        func(t *testing.T, b *bmcsim.BMC, l *bmc.Lane, c *later)
	}{
		"the server was off": {boot, restart, func(t *testing.T, b *bmcsim.BMC, l *bmc.Lane, c *later) {
			t.Helper()
			set(t, b, "power.state", "off")
			oneLook(t, b, l, c)
		}},
		"no such target":        {bootOnce("moon"), restart, oneLook},
		"no restart":            {boot, command(scl.DoPower, "off"), oneLook},
		"of a system by its id": {boot, command(scl.DoReboot, "system"), oneLook},
		"no boot target":        {restart, boot, oneLook},
	} {
		t.Run(name, func(t *testing.T) {
			clock := &later{}
			b, base := bmctest.Start(t, quick(clock.of))
			l := open(t, b, base, newStore(bmcsim.DefaultPassword), nil)
			c.before(t, b, l, clock)
			b.ResetStats()
			got, err := l.BootAndRestart(t.Context(), c.boot, c.restart, proceed)
			if got != nil || err != nil || b.Stats().Writes != 0 {
				t.Errorf("got %q, %v after %d writes", lines(got), err, b.Stats().Writes)
			}
		})
	}
}

// A look that is too old to build a restart on is not built on.
func TestPairLooksAgainAfterAWhile(t *testing.T) {
	c := &later{}
	b, base := bmctest.Start(t, quick(c.of))
	l := open(t, b, base, newStore(bmcsim.DefaultPassword), func(cfg *bmc.Config) { cfg.Now = c.now })
	oneLook(t, b, l, c)
	set(t, b, "power.state", "off")
	c.pass(2 * time.Minute)
	b.ResetStats()
	boot, restart := pxeAndReset()
	if got, err := l.BootAndRestart(t.Context(), boot, restart, proceed); got != nil || err != nil {
		t.Errorf("a server that was switched off meanwhile: %q, %v", lines(got), err)
	}
	if got := asked(b); got != "GET /redfish/v1/Systems/system" {
		t.Errorf("asked %s", got)
	}
}

// The same on a lane that has never seen its BMC: the root, the login, the way to
// the system, and the pair. Closed, it leaves no session.
func TestRequestsOfAColdPair(t *testing.T) {
	c := &later{}
	b, base := bmctest.Start(t, quick(c.of, hurried))
	l := open(t, b, base, newStore(bmcsim.DefaultPassword), nil)
	c.pass(5 * time.Second)
	boot, restart := pxeAndReset()
	if got, err := l.BootAndRestart(t.Context(), boot, restart, proceed); err != nil || len(got) != 2 || got[1].Status != fleet.Confirmed {
		t.Fatal(lines(got), err)
	}
	want := []string{
		"GET /redfish/v1/", "POST /redfish/v1/SessionService/Sessions", "GET /redfish/v1/Systems", "GET /redfish/v1/Systems/system",
		"PATCH /redfish/v1/Systems/system", "POST /redfish/v1/Systems/system/Actions/ComputerSystem.Reset", "GET /redfish/v1/Systems/system",
	}
	if diff := cmp.Diff(want, strings.Split(asked(b), "\n")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := b.Stats(); s.Handshakes != 1 || s.Sessions != 0 {
		t.Errorf("%d handshakes, %d sessions; want 1, 0", s.Handshakes, s.Sessions)
	}
}

// A make that is not known to hold what it accepts.
func TestNoPairOnAStrangeMake(t *testing.T) {
	boot, restart := pxeAndReset()
	v := &vendor{docs: idrac()}
	_, strange := v.start(t, nil)
	if _, err := strange.Summary(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := strange.BootAndRestart(t.Context(), boot, restart, proceed); got != nil || err != nil {
		t.Errorf("an iDRAC: %q, %v", lines(got), err)
	}
}

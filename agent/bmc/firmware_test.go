package bmc_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/bmctest"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

func imageOf(text string) redfish.Image {
	return redfish.Image{Name: "image.tar", Size: int64(len(text)), Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(text)), nil
	}}
}

// told is a result in the words that a person reads.
func told(r fleet.Result) string {
	text := fmt.Sprintf("%s: %s -> %s", r.Status, r.Before, r.After)
	if r.Error != "" {
		text += " | " + r.Error
	}
	if r.Hint != "" {
		text += " | " + r.Hint
	}
	return text
}

const notRead = "; the image may hold that same version, or was not taken | say which version it shall be, as in (version \"2.19.0\")"

// Against OpenBMC as it is simulated. Success is the version that is read back.
func TestUpdateFirmware(t *testing.T) {
	for _, c := range []struct {
		name     string
		firmware scl.Firmware
		image    string
		sim      func(*bmcsim.Config)
		want     string
	}{
		{
			name: "now", firmware: scl.Firmware{ID: "bmc"}, image: "version=2.20.0\n",
			want: "confirmed: 2.18.0-sim -> 2.20.0",
		},
		{
			name: "the BMC is away for a while", firmware: scl.Firmware{ID: "bmc", Version: "2.20.0"}, image: "version=2.20.0\n",
			sim:  func(c *bmcsim.Config) { c.ResetTime = 2 * time.Second },
			want: "confirmed: 2.18.0-sim -> 2.20.0",
		},
		{
			name: "it is there", firmware: scl.Firmware{ID: "bmc", Version: "2.18.0-sim"}, image: "version=2.18.0-sim\n",
			want: "unchanged: 2.18.0-sim -> 2.18.0-sim",
		},
		{
			name: "another version than was meant", firmware: scl.Firmware{ID: "bmc", Version: "2.21.0"}, image: "version=2.20.0\n",
			want: "failed: 2.18.0-sim -> 2.20.0 | update the firmware: it is not installed, and its task is done; 2.20.0 runs | read the BMC's event log for its own account",
		},
		{
			name: "refused", firmware: scl.Firmware{ID: "bmc"}, image: "activation=refused\n",
			want: "failed: 2.18.0-sim -> 2.18.0-sim | n1: post to /redfish/v1/UpdateService/update-multipart: the BMC answered 500 Internal Server Error: ",
		},
		{
			name: "the task fails", firmware: scl.Firmware{ID: "bmc"}, image: "activation=invalid\n",
			want: "failed: 2.18.0-sim -> 2.18.0-sim | update the firmware: the BMC did not install it: its task is failed: the BMC ended it with Exception: The task with Id '0' has completed with errors; 2.18.0-sim runs, as before | read the BMC's event log for its own account",
		},
		{
			name: "on reset", firmware: scl.Firmware{ID: "bmc", OnReset: true}, image: "version=2.20.0\n",
			want: "confirmed: 2.18.0-sim -> 2.18.0-sim runs, 2.20.0 from the next reset of the BMC on",
		},
		{
			name: "of the host", firmware: scl.Firmware{ID: "bios"}, image: "version=B9\npurpose=bios\n",
			want: "attempted: SIM-BIOS-1.4.2 -> SIM-BIOS-1.4.2 runs, B9 from the next reset of the server on | the image is there and does not run yet; the server has to be restarted",
		},
		{
			name: "no such firmware", firmware: scl.Firmware{ID: "cpld"}, image: "x",
			want: `failed:  ->  | find the firmware: this BMC shows no firmware "cpld" | it shows bios_e5f60718, bmc_a1b2c3d4`,
		},
		{
			name: "too large", firmware: scl.Firmware{ID: "bmc"}, image: strings.Repeat("x", 31<<20),
			want: "failed: 2.18.0-sim ->  | update the firmware: the image has 31.0 MiB, and this BMC takes 30.0 MiB at most",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b, base := bmctest.Start(t, quick(func(cfg *bmcsim.Config) {
				cfg.UpdateTime = 300 * time.Millisecond
				if c.sim != nil {
					c.sim(cfg)
				}
			}))
			l := open(t, b, base, newStore(bmcsim.DefaultPassword), func(cfg *bmc.Config) { cfg.Settle, cfg.Rest = time.Second, 10*time.Millisecond })
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			got := told(l.UpdateFirmware(ctx, bmc.FirmwareUpdate{Firmware: c.firmware, Image: imageOf(c.image)}))
			if !strings.HasPrefix(got, c.want) || len(got) > len(c.want) && !strings.HasSuffix(c.want, ": ") {
				t.Errorf("(-want +got):\n%s", cmp.Diff(c.want, got))
			}
		})
	}
}

// What a person sees of it on the way.
func TestUpdateFirmwareTellsHowFarItIs(t *testing.T) {
	b, _, l := start(t, quick(func(cfg *bmcsim.Config) { cfg.UpdateTime = 300 * time.Millisecond }))
	var lines []string
	r := l.UpdateFirmware(t.Context(), bmc.FirmwareUpdate{
		Firmware: scl.Firmware{ID: "bmc"}, Image: imageOf("version=3\n" + strings.Repeat("x", 8<<20)),
		Tell: func(n bmc.FirmwareNews) { lines = append(lines, fmt.Sprintf("%s %s %d", n.Before, n.Doing, n.Percent)) },
	})
	if r.Status != fleet.Confirmed || b.Stats().Sessions != 1 {
		t.Errorf("%s, %d sessions", told(r), b.Stats().Sessions)
	}
	want := []string{"2.18.0-sim sends the image 0"}
	for p := 10; p <= 100; p += 10 {
		want = append(want, fmt.Sprintf("2.18.0-sim sends the image %d", p))
	}
	want = append(want, "2.18.0-sim takes the image in -1", "2.18.0-sim takes the image in 100", "2.18.0-sim reads the version back -1")
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What a script reads of a firmware is the image that runs, also while there is
// another one.
func TestVersionThatRuns(t *testing.T) {
	b, _, l := start(t, quick(func(cfg *bmcsim.Config) { cfg.UpdateTime = 100 * time.Millisecond }))
	read := func() string {
		got, err := l.Read(t.Context(), bmc.Person, refs(t, "firmware.bmc.version", "firmware.bios.version"))
		if err != nil {
			t.Fatal(err)
		}
		return shown(got)
	}
	for _, c := range []struct {
		onReset bool
		want    string
	}{{true, "2.18.0-sim"}, {false, "2.20.0"}} {
		l.UpdateFirmware(t.Context(), bmc.FirmwareUpdate{Firmware: scl.Firmware{ID: "bmc", OnReset: c.onReset}, Image: imageOf("version=2.20.0\n")})
		want := "firmware.bmc.version " + c.want + "\nfirmware.bios.version SIM-BIOS-1.4.2\n"
		if got := read(); got != want {
			t.Errorf("on reset %v: %s", c.onReset, got)
		}
	}
	if v, err := l.FirmwareVersion(t.Context(), "bmc"); v != "2.20.0" || err != nil || b.Stats().Sessions != 1 {
		t.Errorf("%s, %v", v, err)
	}
}

// machine is a BMC with its flash, whose process can be restarted on one address.
type machine struct {
	t    *testing.T
	cfg  bmcsim.Config
	addr string
	b    *bmcsim.BMC

	mu   sync.Mutex
	stop func()
}

func newMachine(t *testing.T, change ...func(*bmcsim.Config)) *machine {
	t.Helper()
	m := &machine{t: t, addr: "127.0.0.1:0", cfg: quick(change...)}
	m.cfg.StateFile = filepath.Join(t.TempDir(), "flash.json")
	m.start()
	t.Cleanup(func() { m.halt() })
	return m
}

func (m *machine) start() {
	m.t.Helper()
	b, err := bmcsim.New(m.cfg)
	if err != nil {
		m.t.Error(err)
		return
	}
	l, err := (&net.ListenConfig{}).Listen(context.WithoutCancel(m.t.Context()), "tcp", m.addr)
	if err != nil {
		m.t.Error(err)
		return
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(m.t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = b.Serve(ctx, l)
	}()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.b, m.addr, m.stop = b, l.Addr().String(), func() { cancel(); <-done }
}

// now is the BMC as it runs now.
func (m *machine) now() *bmcsim.BMC {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.b
}

// halt cuts every connection and forgets all that is in memory.
func (m *machine) halt() {
	m.mu.Lock()
	stop := m.stop
	m.mu.Unlock()
	stop()
}

func (m *machine) restart() { m.halt(); m.start() }

func (m *machine) lane() *bmc.Lane {
	m.t.Helper()
	return open(m.t, m.now(), "https://"+m.addr, newStore(bmcsim.DefaultPassword), func(cfg *bmc.Config) { cfg.Settle, cfg.Rest = 3*time.Second, 10*time.Millisecond })
}

// A BMC that restarts amid an update, at each of its phases, ends it in a true
// statement.
func TestBMCRestartsAmidAnUpdate(t *testing.T) {
	for _, c := range []struct {
		name    string
		version string
		when    string // the phase whose beginning it restarts at; "half": of the image
		away    bool   // it never comes back
		within  time.Duration
		want    []string
	}{
		{
			name: "mid upload", when: "half",
			want: []string{"failed: 2.18.0-sim -> 2.18.0-sim | ", "send the image: the connection broke when ", " of 16.0 MiB were sent", "; 2.18.0-sim runs, as before | nothing was installed; apply the script again"},
		},
		{
			name: "mid upload, for good", when: "half", away: true,
			want: []string{"failed: 2.18.0-sim ->  | ", "the BMC has not answered since: ", "the image did not arrive whole; look at the BMC before it is sent again"},
		},
		{
			name: "mid task", when: "takes the image in",
			want: []string{"unknown: 2.18.0-sim -> 2.18.0-sim | read back the version: 2.18.0-sim runs, as before, and its task is unknown: the BMC no longer knows the task", notRead},
		},
		{
			name: "mid task, with a version", when: "takes the image in", version: "2.20.0",
			want: []string{"failed: 2.18.0-sim -> 2.18.0-sim | update the firmware: it is not installed, and its task is unknown: ", "; 2.18.0-sim runs, as before"},
		},
		{
			name: "mid task, for good", when: "takes the image in", away: true, within: 4 * time.Second,
			want: []string{"unknown: 2.18.0-sim ->  | read back the version: the BMC has not answered since: ", "look at the version once it answers; a larger (timeout …) waits longer"},
		},
		{name: "after it", when: "reads the version back", want: []string{"confirmed: 2.18.0-sim -> 2.20.0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.within == 0 {
				c.within = 30 * time.Second
			}
			m := newMachine(t, func(cfg *bmcsim.Config) { cfg.UpdateTime = 400 * time.Millisecond })
			l := m.lane()
			once := sync.OnceFunc(func() {
				if m.halt(); !c.away {
					m.start()
				}
			})
			u := bmc.FirmwareUpdate{
				Firmware: scl.Firmware{ID: "bmc", Version: c.version}, Image: imageOf("version=2.20.0\n" + strings.Repeat("x", 16<<20-15)),
				Tell: func(n bmc.FirmwareNews) {
					if c.when == n.Doing && n.Phase || c.when == "half" && n.Percent >= 20 {
						once()
					}
				},
			}
			ctx, cancel := context.WithTimeout(t.Context(), c.within)
			defer cancel()
			got := told(l.UpdateFirmware(ctx, u))
			for _, want := range c.want {
				if !strings.Contains(got, want) {
					t.Errorf("it does not say %q:\n%s", want, got)
				}
			}
		})
	}
}

package agent

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/bmctest"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
	"github.com/chiba-mesh/chiba/trust/seal"
	"github.com/chiba-mesh/chiba/trust/sign/signtest"
)

// cable leads from the address where the agent looks for its BMC to whatever is
// plugged in there.
type cable struct {
	net.Listener

	mu    sync.Mutex
	to    string
	conns map[net.Conn]bool
	all   sync.WaitGroup
}

func newCable(t *testing.T, to string) *cable {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{Listener: l, to: to, conns: map[net.Conn]bool{}}
	c.all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.all.Go(func() { c.carry(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		c.plug("")
		c.all.Wait()
	})
	return c
}

// plug leads the cable elsewhere; what went over it is cut.
func (c *cable) plug(to string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.to = to
	for conn := range c.conns {
		_ = conn.Close()
	}
}

func (c *cable) carry(near net.Conn) {
	defer near.Close()
	c.mu.Lock()
	to := c.to
	c.mu.Unlock()
	far, err := (&net.Dialer{Timeout: time.Second}).Dial("tcp", to)
	if err != nil {
		return
	}
	defer far.Close()
	c.mu.Lock()
	c.conns[near], c.conns[far] = true, true
	if c.to != to {
		_ = near.Close()
	}
	c.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(far, near); _ = far.Close() })
	both.Go(func() { _, _ = io.Copy(near, far); _ = near.Close() })
	both.Wait()
	c.mu.Lock()
	delete(c.conns, near)
	delete(c.conns, far)
	c.mu.Unlock()
}

// rogue is somebody with a key of his own who writes down what he is sent. With a
// BMC behind him he hands it on.
type rogue struct {
	address, pin string
	mu           sync.Mutex
	heard        []string
}

func newRogue(t *testing.T, behind string) *rogue {
	t.Helper()
	r := &rogue{}
	var next http.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{}`) })
	if behind != "" {
		to, err := url.Parse(behind)
		if err != nil {
			t.Fatal(err)
		}
		proxy := httputil.NewSingleHostReverseProxy(to)
		tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		proxy.Transport = tr
		proxy.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
		t.Cleanup(tr.CloseIdleConnections)
		next = proxy
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.heard = append(r.heard, req.Method+" "+req.URL.Path)
		r.mu.Unlock()
		next.ServeHTTP(w, req)
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	s.StartTLS()
	t.Cleanup(s.Close)
	r.address, r.pin = s.Listener.Addr().String(), redfish.PinOf(s.Certificate())
	return r
}

func (r *rogue) was() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.heard, "; ")
}

// taker is an agent with a real lane to one BMC.
type taker struct {
	t     *testing.T
	cfg   Config
	cable *cable
	bmc   *bmcsim.BMC
	base  string
	agent *Agent
	stop  func()
}

func newOwner(t *testing.T, sim bmcsim.Config) *taker {
	t.Helper()
	b, base := bmctest.Start(t, sim)
	o := &taker{t: t, bmc: b, base: base}
	o.cable = newCable(t, strings.TrimPrefix(base, "https://"))
	o.cfg = Config{
		Name: "a1", Rack: "r1", Site: "s1", State: t.TempDir(), Coordinators: []string{"127.0.0.1:1"}, NoMDNS: true,
		Login: Login{Factory: FactoryOpenBMC}, Log: slog.New(slog.DiscardHandler),
		Nodes: []Entry{{Name: "n1", Pin: b.Pin(), Address: o.cable.Addr().String(), TakeOver: true}},
	}
	if _, err := signtest.New(o.cfg.State); err != nil {
		t.Fatal(err)
	}
	return o
}

// start begins a process.
func (o *taker) start() {
	o.t.Helper()
	key, err := seal.OpenKey(filepath.Join(o.cfg.State, sealFile))
	if err != nil {
		o.t.Fatal(err)
	}
	disk, err := spool.Open(filepath.Join(o.cfg.State, spoolFile), spool.Options{})
	if err != nil {
		o.t.Fatal(err)
	}
	a, err := assemble(o.cfg, disk, key)
	if err != nil {
		o.t.Fatal(err)
	}
	rack, err := ca.OpenRack(filepath.Join(o.cfg.State, rackDir), trust.Domain{Site: "s1", Rack: "r1"}, nil)
	if err != nil {
		o.t.Fatal(err)
	}
	a.certifyBy(rack)
	a.link = &fakeLink{}
	o.agent = a
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	var once sync.Once
	o.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				o.t.Errorf("the agent ended with %v", err)
			}
		})
	}
	o.t.Cleanup(o.stop)
}

func (o *taker) node() *node { return o.agent.rack.named("n1") }

// until waits until what it asks is true.
func (o *taker) until(what string, true func(fleet.Node) bool) fleet.Node {
	o.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	patience := time.After(30 * time.Second)
	for {
		seen := o.node().seen()
		if true(seen) {
			return seen
		}
		select {
		case <-tick.C:
		case <-patience:
			o.t.Fatalf("it is never %s: %+v", what, seen)
		}
	}
}

func (o *taker) taken() fleet.Node {
	o.t.Helper()
	return o.until("taken over", func(n fleet.Node) bool { return n.Trust.Done() && n.Trust.Takeover == fleet.TakeoverStrict })
}

// provoke makes the agent turn to its BMC in every way that it has.
func (o *taker) provoke() {
	o.t.Helper()
	o.node().lookAtTakeover()
	o.node().poke()
	r := o.agent.act(o.t.Context(), o.node(), scl.Command{Verb: scl.DoPower, Args: []string{"on"}, Text: "(power on)"})
	if r.Status.OK() || r.Kind != string(fault.Untrusted) && r.Kind != string(fault.Unavailable) {
		o.t.Errorf("a command through it: %+v", r)
	}
	o.agent.advance(o.t.Context(), o.node())
	if l, err := o.node().way(); err == nil {
		o.agent.refresh(o.t.Context(), o.node(), l)
	}
}

// Somebody stands between at the first contact, and the catalogue knows the true
// key: he is sent nothing at all.
func TestThreat05BetweenUsAtFirstContact(t *testing.T) {
	o := newOwner(t, bmcsim.Config{})
	mitm := newRogue(t, o.base)
	o.cable.plug(mitm.address)
	o.start()
	seen := o.until("untrusted", func(n fleet.Node) bool { return n.State == fleet.Untrusted })
	if !strings.Contains(seen.Reason, mitm.pin) || !strings.Contains(seen.Reason, "chiba bmc accept n1") {
		t.Errorf("the reason: %s", seen.Reason)
	}
	if seen.Trust.Level != "TX" {
		t.Errorf("its level is %s", seen.Trust.Level)
	}
	if heard := mitm.was(); heard != "" {
		t.Errorf("he was sent %s", heard)
	}
}

// He was there at the first contact, and his key was taken for the BMC's: the
// take-over sees that the BMC's new key does not come through and goes no
// further. When he is gone, nothing weak is left for him to come back to.
func TestThreat05TakenForTheBMC(t *testing.T) {
	o := newOwner(t, bmcsim.Config{})
	mitm := newRogue(t, o.base)
	o.cfg.Nodes[0].Pin = mitm.pin
	o.cable.plug(mitm.address)
	o.start()
	o.until("stopped at the certificate", func(fleet.Node) bool {
		return strings.Contains(o.node().ledger.Record().Blocks["install"].Reason, "does not serve it")
	})
	if r := o.node().ledger.Record(); r.Ours() || r.Proven() {
		t.Errorf("it believes him: %+v", r)
	}
	o.cable.plug(strings.TrimPrefix(o.base, "https://"))
	o.agent.advance(t.Context(), o.node())
	o.taken()
	heard := len(mitm.was())
	o.cable.plug(mitm.address)
	o.provoke()
	if len(mitm.was()) != heard {
		t.Error("he is spoken to again")
	}
}

func TestThreat06KeyChangedAfterTakeover(t *testing.T) {
	o := newOwner(t, bmcsim.Config{})
	o.start()
	o.taken()
	imposter := newRogue(t, "")
	o.cable.plug(imposter.address)
	o.provoke()
	seen := o.until("quarantined", func(n fleet.Node) bool { return n.State == fleet.Untrusted && n.Trust.Quarantine != "" })
	if !strings.Contains(seen.Reason, imposter.pin) {
		t.Errorf("the reason: %s", seen.Reason)
	}
	if seen.Trust.Level != "TX" || seen.Trust.Elements["trust.key"] != "changed" {
		t.Errorf("it is believed %s, %v", seen.Trust.Level, seen.Trust.Elements)
	}
	o.provoke()
	if heard := imposter.was(); heard != "" {
		t.Errorf("the imposter was sent %s", heard)
	}

	// Nor after a restart.
	o.stop()
	o.start()
	o.until("untrusted after a restart", func(n fleet.Node) bool { return n.State == fleet.Untrusted })
	if heard := imposter.was(); heard != "" {
		t.Errorf("the imposter was sent %s", heard)
	}
	o.stop()

	// The true BMC needs nobody's word.
	o.cable.plug(strings.TrimPrefix(o.base, "https://"))
	o.start()
	if seen := o.taken(); seen.Trust.Level != "T3" {
		t.Errorf("the true one is believed %s: %s", seen.Trust.Level, seen.Trust.Why)
	}
}

// rename changes the BMC's host name, for which it makes a new key.
func (o *taker) rename(name string) {
	o.t.Helper()
	body := strings.NewReader(`{"HostName":"` + name + `"}`)
	req, err := http.NewRequestWithContext(o.t.Context(), http.MethodPatch, o.base+"/redfish/v1/Managers/bmc/EthernetInterfaces/eth0", body)
	if err != nil {
		o.t.Fatal(err)
	}
	req.SetBasicAuth("root", bmcsim.DefaultPassword)
	req.Header.Set("Content-Type", "application/json")
	res, err := bmctest.Client(o.t, o.bmc).Do(req)
	if err != nil {
		o.t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusNoContent {
		o.t.Fatalf("rename: %s", res.Status)
	}
}

func TestThreat07NewKeyForANewHostNameBeforeTakeover(t *testing.T) {
	o := newOwner(t, bmcsim.Config{})
	o.rename("bmc-7")
	o.bmc.ResetStats()
	o.start()
	o.until("untrusted", func(n fleet.Node) bool { return n.State == fleet.Untrusted && n.Trust.Level == "TX" })
	if got := o.bmc.Requests(); len(got) != 0 {
		t.Errorf("it was sent %v", got)
	}
	if r := o.accept("sha256/nonsense"); r.Status != fleet.Failed || r.Hint == "" {
		t.Errorf("a pin that is none: %+v", r)
	}
	if r := o.accept(o.bmc.Pin()); r.Status != fleet.Confirmed {
		t.Fatalf("accept: %+v", r)
	}
	o.taken()

	// A person's word outlives the process.
	o.stop()
	o.start()
	o.taken()
}

func (o *taker) accept(pin string) fleet.Result {
	return o.agent.command(o.t.Context(), o.node(), scl.Command{Verb: scl.DoAccept, Args: []string{pin}, Text: "(bmc-accept)"}, nil)
}

// A BMC is replaced: nothing is sent to the new one until a person accepts it, and
// nothing of the old one is used for it; another server's BMC is refused even then.
func TestAReplacedBMC(t *testing.T) {
	o := newOwner(t, bmcsim.Config{Serial: "S1"})
	o.start()
	o.taken()
	same, base := bmctest.Start(t, bmcsim.Config{Serial: "S1"})
	other, elsewhere := bmctest.Start(t, bmcsim.Config{Serial: "S2"})

	o.cfg.Nodes[0].Serial = "S1"
	o.stop()
	o.start()
	o.taken()
	o.cable.plug(strings.TrimPrefix(elsewhere, "https://"))
	if r := o.accept(other.Pin()); r.Status != fleet.Confirmed {
		t.Fatalf("accept: %+v", r)
	}
	o.agent.askAt(o.cable.Addr().String())
	o.until("quarantined by its serial number", func(n fleet.Node) bool {
		return n.Trust.Level == "TX" && n.State == fleet.Untrusted && strings.Contains(n.Reason, "another serial")
	})
	if o.node().ledger.Record().Unique {
		t.Error("another server's BMC was changed")
	}

	o.cable.plug(strings.TrimPrefix(base, "https://"))
	if r := o.accept(same.Pin()); r.Status != fleet.Confirmed {
		t.Fatalf("accept: %+v", r)
	}
	o.taken()
}

// What a release leaves, and what the agent forgets.
func TestReleaseAndTakeoverByCommand(t *testing.T) {
	o := newOwner(t, bmcsim.Config{})
	o.cfg.Nodes[0].TakeOver = false
	o.start()
	o.until("seen", func(n fleet.Node) bool { return n.State == fleet.Ready })
	do := func(verb scl.Verb, password string) fleet.Result {
		c := scl.Command{Verb: verb, Text: "(" + string(verb) + ")"}
		if password != "" {
			c.Secret.Literal = fleet.NewSecret(password)
		}
		return o.agent.command(t.Context(), o.node(), c, nil)
	}
	if r := do(scl.DoRelease, "Known-to-0wner"); r.Status != fleet.Failed {
		t.Errorf("released what was not taken: %+v", r)
	}
	if r := do(scl.DoTakeOver, ""); r.Status != fleet.Confirmed || r.After != string(fleet.TakeoverStrict) {
		t.Fatalf("take-over: %+v", r)
	}
	if r := do(scl.DoRelease, "Known-to-0wner"); r.Status != fleet.Confirmed {
		t.Fatalf("release: %+v", r)
	}
	if n := o.node().seen(); n.State != fleet.Refused || !n.Trust.Released || !strings.Contains(n.Reason, "--password-file") {
		t.Errorf("after it: %+v", n)
	}
	kept, err := json.Marshal(o.node().ledger.Record())
	if err != nil || strings.Contains(string(kept), "sealed") {
		t.Errorf("it still keeps passwords: %s %v", kept, err)
	}
	if r := do(scl.DoTakeOver, ""); r.Status == fleet.Confirmed || !strings.Contains(r.Hint, "--password-file") {
		t.Errorf("taken over without the password that it has: %+v", r)
	}
	if r := do(scl.DoTakeOver, "Known-to-0wner"); r.Status != fleet.Confirmed {
		t.Errorf("take-over again: %+v", r)
	}
}

// A release that was broken off goes on by the same command, as a run does it again
// after a crash; with another password it is another one, and is refused.
func TestReleaseGoesOn(t *testing.T) {
	o := newOwner(t, bmcsim.Config{})
	o.start()
	o.taken()
	release := func(ctx context.Context, password string) fleet.Result {
		c := scl.Command{Verb: scl.DoRelease, Text: "(bmc-release)"}
		c.Secret.Literal = fleet.NewSecret(password)
		return o.agent.command(ctx, o.node(), c, nil)
	}
	for range takenAtOnce { // no step is done meanwhile
		o.agent.taking <- struct{}{}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if r := release(ctx, "Known-to-0wner"); r.Status.OK() {
		t.Fatalf("given back without a step: %+v", r)
	}
	if r := release(t.Context(), "An0ther-one"); r.Kind != string(fault.Conflict) {
		t.Errorf("with another password: %+v", r)
	}
	for range takenAtOnce {
		<-o.agent.taking
	}
	if r := release(t.Context(), "Known-to-0wner"); r.Status != fleet.Confirmed || r.After != "given back" {
		t.Errorf("the same again: %+v", r)
	}
}

// A BMC that was reset comes back in 1970. Its clock is set right by itself, long
// before the next audit.
func TestAResetBMCHasItsClockSet(t *testing.T) {
	o := newOwner(t, bmcsim.Config{Epoch: true})
	o.start()
	o.taken()
	if off := o.clockOff(); off > time.Minute {
		t.Fatalf("taken over, and %s wrong", off)
	}
	if r := o.agent.command(t.Context(), o.node(), scl.Command{Verb: scl.DoBMCReset, Text: "(bmc-reset)"}, nil); !r.Status.OK() {
		t.Fatalf("reset: %+v", r)
	}
	o.until("right again", func(fleet.Node) bool { return o.clockOff() < time.Minute })
}

// clockOff is how wrong the BMC's clock is, as itself has it.
func (o *taker) clockOff() time.Duration { return time.Until(o.bmc.Clock()).Abs() }

// Why a take-over stopped is told with what a person can do; the kind stays.
func TestTheWayOnOfATakeOver(t *testing.T) {
	n := &node{entry: Entry{Name: "n1"}}
	for kind, want := range map[fault.Kind]string{
		fault.Denied:      "chiba bmc takeover n1 --password-file FILE",
		fault.Unavailable: "it is tried again by itself; see how far it is: chiba get bmcs n1",
	} {
		err := n.wayOn(fault.New(kind, "look", "no"))
		if hint := fault.HintOf(err); !strings.HasSuffix(hint, want) || !fault.Is(err, kind) || err.Error() != "look: no" {
			t.Errorf("%s: %v of kind %s, with hint %q", kind, err, fault.KindOf(err), hint)
		}
	}
}

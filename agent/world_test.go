package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/agent/journal"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/discovery/static"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/events"
	"github.com/chiba-mesh/chiba/pkg/redfish/inventory"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/compile"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust/seal"
	"github.com/chiba-mesh/chiba/trust/sign/signtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is an agent with fake lanes and a fake link, over a real spool. Its rack
// outlives the agent's processes: start, kill and start again.
type world struct {
	t     *testing.T
	dir   string
	cfg   Config
	lanes map[fleet.NodeName]*fakeLane
	logs  lockedBuffer
	full  atomic.Bool // the disk

	mu   sync.Mutex
	pins map[string]string // address -> the key that answers there

	roots map[string]discovery.Root // what the service root of a key tells

	authors *signtest.Authors
	policy  []byte
	orders  map[string]order.Order

	disk  spool.Options
	meet  func(*Agent) // before it runs
	agent *Agent
	link  *fakeLink
	stop  func()
}

// lockedBuffer takes logs from every goroutine.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// fakeLane is a BMC that does as it is told at once, unless a hook says otherwise.
type fakeLane struct {
	node fleet.NodeName

	mu     sync.Mutex
	calls  []string
	values map[string]fleet.Value
	state  fleet.NodeState
	power  string
	serial string
	closed bool

	stats   bmc.Stats
	sensors []bmc.Sensor
	tree    []redfish.Resource // for the inventory
	surveys int

	deliver   func(events.Notice) // of the last listener
	listeners int
	logged    []events.Event
	logFails  error
	logReads  int
	hear      func(ctx context.Context, deliver func(events.Notice)) error

	update func(ctx context.Context, u bmc.FirmwareUpdate) fleet.Result
	do     func(ctx context.Context, c scl.Command) fleet.Result
	pair   func(ctx context.Context, begin func(fleet.Result) error) ([]fleet.Result, error)
	apply  func(ctx context.Context, settings []scl.Setting) []fleet.Result
	read   func(ctx context.Context)
}

func (l *fakeLane) called(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls = append(l.calls, fmt.Sprintf(format, args...))
}

// did is what was done on the BMC, in order.
func (l *fakeLane) did() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.calls, "; ")
}

func (l *fakeLane) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

func (l *fakeLane) Read(ctx context.Context, _ bmc.Priority, refs []scl.Ref) ([]fleet.Reading, error) {
	if l.read != nil {
		l.read(ctx)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []fleet.Reading
	for _, r := range refs {
		v, ok := l.values[r.Text]
		if !ok || ctx.Err() != nil {
			v = fleet.NoValue("not reported")
		}
		out = append(out, fleet.Reading{Node: l.node, Ref: r.Text, Value: v})
	}
	return out, fault.Wrap(fault.KindOf(ctx.Err()), "read", ctx.Err())
}

func (l *fakeLane) Plan(_ context.Context, settings []scl.Setting) []fleet.Change {
	var out []fleet.Change
	for _, s := range settings {
		out = append(out, fleet.Change{Before: "was", After: s.Value.String(), Verdict: fleet.Differs})
	}
	return out
}

func (l *fakeLane) Apply(ctx context.Context, settings []scl.Setting) []fleet.Result {
	if l.apply != nil {
		return l.apply(ctx, settings)
	}
	var out []fleet.Result
	for _, s := range settings {
		l.called("set %s", s.Path())
		out = append(out, fleet.Result{Status: fleet.Confirmed, Path: s.Path()})
	}
	return out
}

func (l *fakeLane) Do(ctx context.Context, c scl.Command) fleet.Result {
	l.called("%s", c.Text)
	if l.do != nil {
		return l.do(ctx, c)
	}
	return fleet.Result{Node: l.node, Step: c.Text, Status: fleet.Confirmed}
}

// BootAndRestart does the pair if there is a hook for it.
func (l *fakeLane) BootAndRestart(ctx context.Context, boot, restart scl.Command, begin func(fleet.Result) error) ([]fleet.Result, error) {
	if l.pair == nil {
		return nil, nil
	}
	l.called("%s then %s", boot.Text, restart.Text)
	return l.pair(ctx, begin)
}

func (l *fakeLane) Glance(ctx context.Context) (fleet.Node, error) { return l.Summary(ctx) }

func (l *fakeLane) Events(ctx context.Context, _ *events.Receiver, deliver func(events.Notice)) error {
	l.set(func() { l.listeners++; l.deliver = deliver })
	if l.hear != nil {
		return l.hear(ctx, deliver)
	}
	<-ctx.Done()
	return ctx.Err()
}

func (l *fakeLane) UpdateFirmware(ctx context.Context, u bmc.FirmwareUpdate) fleet.Result {
	l.called("update %s with %s", u.Firmware.ID, u.Image.Name)
	if l.update != nil {
		return l.update(ctx, u)
	}
	return fleet.Result{Status: fleet.Confirmed, Before: "1", After: "2"}
}

func (l *fakeLane) FirmwareVersion(_ context.Context, id string) (string, error) {
	l.called("version of %s", id)
	return "2", l.logFails
}

func (l *fakeLane) LogEvents(context.Context) ([]events.Event, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.logReads++
	return l.logged, l.logFails
}

func (l *fakeLane) SweepEvents(context.Context) error {
	l.called("sweep")
	return nil
}

func (l *fakeLane) Dump(context.Context) (*redfish.Tree, error) { return &redfish.Tree{}, nil }

func (l *fakeLane) Inventory(context.Context) (*inventory.Inventory, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.surveys++
	if l.state != fleet.Ready {
		return nil, fault.New(fault.Unavailable, "survey", "it does not answer")
	}
	return inventory.Of(&redfish.Tree{Resources: l.tree}), nil
}

func (l *fakeLane) Summary(context.Context) (fleet.Node, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := fleet.Node{Name: l.node, Power: l.power, Model: "M1", Serial: l.serial, State: l.state, Seen: time.Now()}
	if l.state != fleet.Ready {
		n.Reason = "no route to host"
		return n, errors.New(n.Reason)
	}
	return n, nil
}

func (l *fakeLane) Stats() bmc.Stats { return l.stats }

func (l *fakeLane) Sensors() []bmc.Sensor { return l.sensors }

func (l *fakeLane) State() (fleet.NodeState, string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state, ""
}

func (l *fakeLane) Close(context.Context) error {
	l.set(func() { l.closed = true })
	return nil
}

// fakeLink is a link that is down, unless a test has it up.
type fakeLink struct {
	up       atomic.Bool
	mu       sync.Mutex
	progress []string
	doing    func(string)
}

func (*fakeLink) Run(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func (*fakeLink) Lease(*pb.Lease) {}
func (*fakeLink) Pull()           {}

func (l *fakeLink) Connected() (bool, time.Time) { return l.up.Load(), time.Time{} }

func (l *fakeLink) Progress(p *pb.Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.doing != nil {
		l.doing(p.GetDoing())
	}
	l.progress = append(l.progress, fmt.Sprintf("%s %d/%d failed %d", p.GetRun(), p.GetDone(), p.GetNodes(), p.GetFailed()))
}

// newWorld is a rack with the nodes n1, n2 and n3.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), orders: make(map[string]order.Order), lanes: make(map[fleet.NodeName]*fakeLane), pins: make(map[string]string)}
	w.cfg = Config{
		Name: "a1", Rack: "r1", Site: "s1", State: w.dir, Coordinators: []string{"127.0.0.1:1"},
		NoMDNS: true, Login: Login{User: "ops", PasswordFile: filepath.Join(w.dir, "password")},
		Log: slog.New(slog.NewTextHandler(&w.logs, nil)),
	}
	err := os.WriteFile(w.cfg.Login.PasswordFile, []byte("of-this-rack"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if w.authors, err = signtest.New(w.dir); err != nil {
		t.Fatal(err)
	}
	w.policy = w.authors.Signed(1, 1)
	for _, name := range []fleet.NodeName{"n1", "n2", "n3"} {
		w.cfg.Nodes = append(w.cfg.Nodes, Entry{Name: name, Pin: "sha256/" + string(name), Address: string(name)})
		w.lanes[name] = &fakeLane{node: name, state: fleet.Ready, power: "on", values: make(map[string]fleet.Value)}
		w.pins[withPort(string(name))] = "sha256/" + string(name)
	}
	return w
}

// fullFile takes nothing while the disk is full.
type fullFile struct {
	spool.File
	full *atomic.Bool
}

func (f fullFile) Update(fn func(spool.Store) error) error {
	if f.full.Load() {
		return &fs.PathError{Op: "write", Path: spoolFile, Err: syscall.ENOSPC}
	}
	return f.File.Update(fn)
}

// assemble is an agent on the state directory dir that does not run yet.
func (w *world) assemble(dir string) *Agent {
	w.t.Helper()
	key, err := seal.OpenKey(filepath.Join(w.dir, sealFile))
	if err != nil {
		w.t.Fatal(err)
	}
	file, err := spool.OpenFile(filepath.Join(dir, spoolFile))
	if err != nil {
		w.t.Fatal(err)
	}
	disk, err := spool.On(fullFile{file, &w.full}, w.disk)
	if err != nil {
		w.t.Fatal(err)
	}
	a, err := assemble(w.cfg, disk, key)
	if err != nil {
		w.t.Fatal(err)
	}
	w.agent, w.link = a, &fakeLink{}
	a.link = w.link
	a.fingerprint = func(_ context.Context, address string) (string, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if pin := w.pins[address]; pin != "" {
			return pin, nil
		}
		return "", errors.New("connection refused")
	}
	a.root = func(ctx context.Context, address string) (discovery.Answer, error) {
		pin, err := a.fingerprint(ctx, address)
		root, known := w.roots[address]
		if !known {
			root = w.roots[pin]
		}
		return discovery.Answer{Pin: pin, Root: root}, err
	}
	a.hardware = func(string) string { return "" }
	a.open = func(e Entry, _ string) (lane, error) { return w.lanes[e.Name], nil }
	if w.meet != nil {
		w.meet(a)
	}
	return a
}

// start begins a process on the state directory dir.
func (w *world) start(dir string) {
	w.t.Helper()
	a := w.assemble(dir)
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	var stopped sync.Once
	w.stop = func() {
		stopped.Do(func() {
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				w.t.Errorf("the agent ended with %v", err)
			}
		})
	}
	<-a.Ready()
	synctest.Wait()
}

// crash is a copy of the state as it is on disk at this moment; the process goes
// on, and nothing that it does later is in the copy.
func (w *world) crash() (dir string) {
	w.t.Helper()
	dir = w.t.TempDir()
	image, err := os.ReadFile(filepath.Join(w.dir, spoolFile))
	if err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, spoolFile), image, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return dir
}

// run has the agent do a script once; it returns when the agent is idle.
func (w *world) run(id, source string) {
	w.t.Helper()
	w.desire(&pb.Desired{Revision: 1, Runs: []*pb.Run{{Id: id, Script: "s", File: "s.scl", Source: []byte(source)}}})
}

// apply puts a script in force.
func (w *world) apply(source string) {
	w.t.Helper()
	if program, diags := compile.Source("s.scl", []byte(source)); program == nil {
		w.t.Fatalf("the test's script is wrong:\n%s", diags)
	}
	w.desire(&pb.Desired{Revision: 1, Scripts: []*pb.Script{{Name: "s", File: "s.scl", Digest: source, Source: []byte(source)}}})
}

// desire has the agent told d, signed by an author as far as it is not yet.
func (w *world) desire(d *pb.Desired) {
	w.t.Helper()
	w.sign(d)
	w.told(d)
}

// sign has what a test wants done signed. The same script is the same order.
func (w *world) sign(d *pb.Desired) {
	d.Policy = w.policy
	for _, s := range d.GetScripts() {
		if len(s.GetSource()) > 0 && len(s.GetEnvelope()) == 0 {
			o, envelope := w.order(order.Standing, s.GetName(), s.GetName(), string(s.GetSource()), 0)
			s.Version, s.Digest, s.Envelope = o.Version, o.Digest, envelope
		}
	}
	for _, r := range d.GetRuns() {
		if r.GetScript() == "" {
			r.Script = "s"
		}
		if len(r.GetEnvelope()) == 0 {
			o, envelope := w.order(order.Run, journal.Key(r), r.GetScript(), string(r.GetSource()), r.GetDeadlineUnixMs())
			r.Version, r.Digest, r.Envelope = o.Version, o.Digest, envelope
		}
	}
}

// order is the order of what is called key.
func (w *world) order(kind order.Kind, key, name, source string, deadline int64) (order.Order, []byte) {
	key += source
	o, known := w.orders[key]
	if !known {
		o = w.authors.Order(kind, name, source)
		o.NotAfter = time.Now().Add(1000 * time.Hour)
		if deadline > 0 {
			o.NotAfter = time.UnixMilli(deadline)
		}
		w.orders[key] = o
	}
	return o, w.authors.Sign(o)
}

// canceled is an order to stop a run that was ordered with sign.
func (w *world) canceled(r *pb.Run) *pb.Run {
	o := w.authors.Order(order.Cancel, r.GetScript(), "")
	o.Cancels = r.GetVersion()
	return &pb.Run{Id: r.GetId(), Script: r.GetScript(), StartedUnixMs: r.GetStartedUnixMs(), Version: r.GetVersion(), Cancel: w.authors.Sign(o)}
}

// cancel is an order to stop the run that w.run has begun.
func (w *world) cancel(id string) *pb.Run {
	w.t.Helper()
	all, err := w.agent.accepted()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range all {
		if r.GetId() == id {
			return w.canceled(r)
		}
	}
	w.t.Fatalf("there is no run %s", id)
	return nil
}

// ended is an order to remove a script.
func (w *world) ended(name string) *pb.Ended {
	o := w.authors.Order(order.Remove, name, "")
	return &pb.Ended{Name: name, Version: o.Version, Envelope: w.authors.Sign(o)}
}

func (w *world) told(d *pb.Desired) {
	w.t.Helper()
	if err := w.agent.Desired(w.t.Context(), d); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

// records tells what waits for the coordinators, without the nodes and how far they
// are trusted.
func (w *world) records() []string {
	return w.recordsOf(func(r *pb.Record) bool { return r.GetNode() == nil && r.GetTrust() == nil })
}

func (w *world) recordsOf(which func(*pb.Record) bool) []string {
	w.t.Helper()
	b, err := w.agent.spool.Batch(1, 1<<30)
	if err != nil {
		w.t.Fatal(err)
	}
	var out []string
	for _, r := range b.GetRecords() {
		if which(r) {
			out = append(out, tell(r))
		}
	}
	return out
}

// tell is a record in one line.
func tell(r *pb.Record) string {
	switch body := r.GetBody().(type) {
	case *pb.Record_Accepted:
		return fmt.Sprintf("%s accepted for %d", body.Accepted.GetRun(), body.Accepted.GetNodes())
	case *pb.Record_Result:
		return strings.TrimSpace(body.Result.GetRun() + " " + tellResult(wire.FromResult(body.Result)))
	case *pb.Record_Rollout:
		return body.Rollout.GetRun() + " concerns " + strings.Join(body.Rollout.GetNodes(), " ")
	case *pb.Record_NodeEnded:
		how := "well"
		if !body.NodeEnded.GetOk() {
			how = "badly"
		}
		return fmt.Sprintf("%s %s ended %s", body.NodeEnded.GetRun(), body.NodeEnded.GetNode(), how)
	case *pb.Record_Done:
		return strings.TrimSuffix(fmt.Sprintf("%s done: %d ok, %d failed, %s", body.Done.GetRun(), body.Done.GetOk(), body.Done.GetFailed(), body.Done.GetError()), ", ")
	case *pb.Record_Firing:
		f := wire.FromFiring(body.Firing)
		text := fmt.Sprintf("%s on %s", f.Rule, f.Node)
		if f.CutOff {
			text += ", cut off"
		}
		if f.Held != "" {
			return text + ", held " + f.Held
		}
		if f.Asked.Rack != "" {
			text += fmt.Sprintf(", asked by %s of %s for %s", f.Asked.Agent, f.Asked.Rack, f.Asked.Node)
		}
		parts := []string{text}
		for _, x := range f.Results {
			parts = append(parts, tellResult(x))
		}
		return strings.Join(parts, ", ")
	case *pb.Record_Node:
		return strings.TrimSpace(fmt.Sprintf("%s is %s, power %s %s", body.Node.GetName(), body.Node.GetState(), body.Node.GetPower(), body.Node.GetReason()))
	case *pb.Record_Hardware:
		h := wire.FromHardwareNews(body.Hardware)
		parts := []string{string(h.Node) + " hardware"}
		for _, c := range h.Changes {
			parts = append(parts, strings.Join(strings.Fields(strings.Join([]string{c.What, c.Path, c.Before, c.After}, " ")), " "))
		}
		if h.More > 0 {
			parts = append(parts, fmt.Sprint("more: ", h.More))
		}
		return strings.Join(parts, ", ")
	case *pb.Record_Gone:
		return body.Gone.GetNode() + " is gone"
	case *pb.Record_Trust:
		c := body.Trust
		return strings.TrimSpace(fmt.Sprintf("%s from %q to %s %s", c.GetNode(), c.GetFrom(), c.GetTo(), c.GetWhy()))
	case *pb.Record_Refused:
		text := fmt.Sprintf("refused %s %s: %s", body.Refused.GetWhat(), body.Refused.GetName(), body.Refused.GetReason())
		if body.Refused.GetBy() != "" {
			text += ", given by " + body.Refused.GetBy()
		}
		return text
	case *pb.Record_Local:
		l := body.Local
		text := fmt.Sprintf("%s had it done: %s %s, %s, signed by %s", l.GetUser(), l.GetKind(), l.GetName(), l.GetRun(), strings.Join(l.GetSigners(), " and "))
		if l.GetCutOff() {
			text += ", cut off"
		}
		return text
	}
	return "?"
}

func tellResult(r fleet.Result) string {
	text := fmt.Sprintf("%s: %s %s", r.Node, r.Step, r.Status)
	if r.By != "" {
		text += " by " + r.By
	}
	if r.Error != "" {
		text += " (" + r.Error + ")"
	}
	return text
}

// pass lets virtual time pass, and everything that it brings about end.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

var (
	_ lane        = (*bmc.Lane)(nil)
	_ bmc.Vault   = (*vault)(nil)
	_ finder      = static.Finder{}
	_ bmc.Digests = (*vault)(nil)
)

func (w *world) path() string { return filepath.Join(w.dir, spoolFile) }

func (w *world) image() []byte {
	w.t.Helper()
	image, err := os.ReadFile(w.path())
	if err != nil {
		w.t.Fatal(err)
	}
	return image
}

func (w *world) otherKey() *seal.Key {
	w.t.Helper()
	key, err := seal.OpenKey(filepath.Join(w.t.TempDir(), "other"))
	if err != nil {
		w.t.Fatal(err)
	}
	return key
}

// sealed is text for the password of root on n1, in script s.
func (w *world) sealed(key *seal.Key, text string) string {
	w.t.Helper()
	program, _ := programOf("s.scl", []byte(`(config "n1" (bmc (user "root" (password "x"))))`), "s")
	use := ""
	for s := range program.Secrets() {
		use = s.Use
	}
	sealed, err := seal.Seal([]seal.Recipient{key.Recipient("r1")}, use, fleet.NewSecret(text))
	if err != nil {
		w.t.Fatal(err)
	}
	return sealed
}

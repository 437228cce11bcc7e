package wan

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"golang.org/x/sys/unix"

	"github.com/chiba-mesh/chiba/e2e/qemu/l2"
	"github.com/chiba-mesh/chiba/e2e/qemu/proc"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/author"
	"github.com/chiba-mesh/chiba/trust/ca"
)

const (
	// patience bounds every wait. It is generous: a wait ends when what it waits
	// for happens.
	patience = 90 * time.Second
	again    = 100 * time.Millisecond
	perRack  = 4 // BMCs
)

// world is a fleet: three coordinators, three racks and a person, each at a site of
// its own.
type world struct {
	t     *testing.T
	dir   string
	link  *l2.Switch
	sites map[string]*site // c1 to c3, r01 to r03, ops
	procs map[string]*proc.Process
	began time.Time
	shown checked
}

var (
	coordinators = []string{"c1", "c2", "c3"}
	racks        = []string{"r01", "r02", "r03"}
)

// domain is that of all names in the fleet.
const domain = "lab.test"

func hostOf(site string) string { return site + "." + domain }

// plan is what differs between worlds.
type plan struct {
	only6 string // a coordinator and a rack whose sites have IPv6 alone: "c3 r03"
	small string // the coordinator whose disk is small
	cable l2.Cable
}

// newWorld starts a fleet and waits until all agents are linked.
func newWorld(t *testing.T, p plan) *world {
	t.Helper()
	drill(t)
	if chaos() {
		fmt.Println(t.Name())
	}
	dir, err := os.MkdirTemp(room, "w") //nolint:usetesting // unix sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{t: t, dir: dir, sites: map[string]*site{}, procs: map[string]*proc.Process{}, began: time.Now()}
	t.Cleanup(func() { shown.end(t, w) })
	w.wire(p)
	w.certify()
	if p.small != "" {
		w.smallDisk(p.small)
	}
	t.Cleanup(w.stop)
	for _, r := range racks {
		w.startSim(r)
	}
	for _, c := range coordinators {
		w.startCoordinator(c)
	}
	for _, r := range racks {
		w.startAgent(r)
	}
	w.linked(racks...)
	w.say("three coordinators and three agents are up")
	return w
}

// wire makes the sites and the link between them.
func (w *world) wire(p plan) {
	w.t.Helper()
	w.link = l2.New(rand.New(rand.NewPCG(rand.Uint64(), 0)))
	var hosts strings.Builder
	hosts.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	for n, name := range append(append([]string{}, coordinators...), append(racks, "ops")...) {
		v4, v6 := fmt.Sprintf("10.80.0.%d", 11+n), fmt.Sprintf("fd80::%d", 11+n)
		addrs := []string{v6 + "/64"}
		fmt.Fprintln(&hosts, v6, hostOf(name))
		if !strings.Contains(p.only6, name) {
			addrs = append(addrs, v4+"/24")
			fmt.Fprintln(&hosts, v4, hostOf(name))
		}
		s := newSite(w.t, name, addrs...)
		s.cable = w.link.Plug(name, s.wire)
		s.cable.Set(p.cable)
		w.sites[name] = s
	}
	path := filepath.Join(w.dir, "hosts")
	if err := errors.Join(os.WriteFile(path, []byte(hosts.String()), 0o600), unix.Mount(path, "/etc/hosts", "", unix.MS_BIND, "")); err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.link.Run(ctx); err != nil {
			w.t.Errorf("the link: %v", err)
		}
	})
	w.t.Cleanup(func() {
		stop()
		running.Wait()
		_ = unix.Unmount("/etc/hosts", unix.MNT_DETACH)
	})
}

// certify gives everybody credentials.
func (w *world) certify() {
	w.t.Helper()
	root, err := ca.OpenRoot(w.path("ca", "root"))
	if err == nil {
		err = root.EnsureSite(w.path("ca", "site"), "lab", domain)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	site, err := ca.OpenSite(w.path("ca", "site"))
	public := []string{w.path("ops")}
	for _, c := range coordinators {
		err = errors.Join(err, site.Ensure(w.path(c), trust.Identity{Role: trust.Coordinator, Name: c}, hostOf(c)))
		public = append(public, w.path(c))
	}
	for _, r := range racks {
		err = errors.Join(err, site.Ensure(w.path(r), trust.Identity{Role: trust.Agent, Domain: trust.Domain{Rack: r}, Name: "agent-" + r}))
		public = append(public, w.path(r))
	}
	err = errors.Join(err, site.Ensure(w.path("ops"), trust.Identity{Role: trust.Operator, Name: "ops"}),
		author.Solo(w.path("authors"), w.path("ops"), "ops", public...), w.context("fleet", slices.Clone(coordinators)...))
	for _, c := range coordinators {
		err = errors.Join(err, w.context("ask-"+c, c))
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// context writes a state directory that talks to these coordinators.
func (w *world) context(name string, to ...string) error {
	ops := w.path("ops")
	for i, c := range to {
		to[i] = "https://" + hostOf(c) + ":7443"
	}
	c := client.Context{
		Address: strings.Join(to, ","),
		CA:      filepath.Join(ops, trust.CAFile), Cert: filepath.Join(ops, trust.CertFile), Key: filepath.Join(ops, trust.KeyFile),
		Author: filepath.Join(ops, author.KeyFile),
	}
	return errors.Join(os.MkdirAll(w.path(name), 0o700), c.Save(w.path(name)))
}

func (w *world) path(parts ...string) string {
	return filepath.Join(append([]string{w.dir}, parts...)...)
}

// say is a line of progress.
func (w *world) say(format string, args ...any) {
	w.t.Helper()
	line := fmt.Sprintf("%6.1f s  %s", time.Since(w.began).Seconds(), fmt.Sprintf(format, args...))
	if chaos() {
		fmt.Println("  " + line)
		return
	}
	w.t.Log(line)
}

// start runs chiba at a site until it is killed or the test ends.
func (w *world) start(at, name string, args ...string) *proc.Process {
	w.t.Helper()
	var p *proc.Process
	err := w.sites[at].in(func() (err error) {
		p, err = proc.Start(name, new(bytes.Buffer), binary, args...)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.procs[name] = p
	return p
}

// stop ends everybody, and tells what they said last if the test has failed.
func (w *world) stop() {
	for name, p := range w.procs {
		w.signal(name, unix.SIGCONT)
		p.Kill()
		<-p.Done()
		if w.t.Failed() {
			w.t.Logf("the last of %s:\n%s", name, p.Tail(25))
		}
	}
}

func (w *world) kill(name string) {
	w.procs[name].Kill()
	<-w.procs[name].Done()
	w.say("%s is killed", name)
}

// signal sends a signal to a process that lives.
func (w *world) signal(name string, s unix.Signal) {
	select {
	case <-w.procs[name].Done():
	default:
		_ = unix.Kill(w.procs[name].PID(), s)
	}
}

// said waits until a process says one of texts, from a line on.
func (w *world) said(name string, from int, texts ...string) (next int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	_, next, err := w.procs[name].Wait(ctx, from, texts...)
	if err != nil {
		w.t.Fatal(err)
	}
	return next
}

func (w *world) startCoordinator(name string) {
	w.t.Helper()
	args := []string{
		"coordinator", "--state", w.path(name, "log"), "--certs", w.path(name), "--site-ca", w.path("ca", "site"),
		"--mesh-tcp-addr", ":7445", "--peer-addr", ":7444", "--advertise", hostOf(name) + ":7444", "--expect", "3",
	}
	for _, other := range coordinators {
		if other != name {
			args = append(args, "--join", hostOf(other)+":7444")
		}
	}
	w.start(name, name, args...)
}

func (w *world) startSim(rack string) {
	w.t.Helper()
	w.start(rack, "sim-"+rack, "sim", "--state", w.path(rack, "sim"), "--nodes", strconv.Itoa(perRack), "--first-rack", strings.TrimPrefix(rack, "r"), "--quiet", "--transition", "10ms")
	w.said("sim-"+rack, 0, "ready")
	var nodes []struct{ Name, Address, Pin, Serial string }
	w.decode(&nodes, "sim", "nodes", "--state", w.path(rack, "sim"))
	catalogue := make([]map[string]any, len(nodes))
	for i, n := range nodes {
		catalogue[i] = map[string]any{"name": nodeName(rack, i+1), "pin": n.Pin, "address": n.Address, "takeover": true}
	}
	text, err := yaml.Marshal(map[string]any{
		"name": "agent-" + rack, "rack": rack, "site": "lab", "state": ".", "no_mdns": true, "heartbeat": "2s",
		"coordinators": []string{hostOf("c1") + ":7443", hostOf("c2") + ":7443", hostOf("c3") + ":7443", "tcp://" + hostOf("c2") + ":7445"},
		"login":        map[string]string{"factory": "openbmc"}, "nodes": catalogue,
	})
	if err = errors.Join(err, os.WriteFile(w.path(rack, "agent.yaml"), text, 0o600)); err != nil {
		w.t.Fatal(err)
	}
}

// nodeName is the name of a rack's nth server.
func nodeName(rack string, n int) string { return fmt.Sprintf("%s-u%02d", rack, n) }

func (w *world) startAgent(rack string) {
	w.t.Helper()
	w.start(rack, "agent-"+rack, "agent", "--state", w.path(rack))
}

// sim moves the simulated rack by hand.
func (w *world) sim(rack string, args ...string) {
	w.t.Helper()
	if got := w.run(append(append([]string{"sim"}, args...), "--state", w.path(rack, "sim"))...); got.err != nil {
		w.t.Fatalf("%v\n%s", got.err, got.stderr)
	}
}

// outcome is what one command did.
type outcome struct {
	stdout, stderr string
	err            error
}

// run runs a command at the person's site; it asks any coordinator unless it names a
// state directory.
func (w *world) run(args ...string) outcome { return w.runAt("ops", args...) }

// runAt runs a command at a site.
func (w *world) runAt(site string, args ...string) outcome {
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	if !strings.Contains(strings.Join(args, " "), "--state") {
		args = append(args, "--state", w.path("fleet"))
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := w.sites[site].run(cmd)
	if err != nil {
		err = fmt.Errorf("chiba %s: %w", strings.Join(args, " "), err)
	}
	return outcome{stdout.String(), stderr.String(), err}
}

func (w *world) must(args ...string) string {
	w.t.Helper()
	got := w.run(args...)
	if got.err != nil {
		w.t.Fatalf("%v\n%s%s", got.err, got.stdout, got.stderr)
	}
	return got.stdout
}

func (w *world) decode(v any, args ...string) {
	w.t.Helper()
	out := w.must(append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), v); err != nil {
		w.t.Fatalf("chiba %v: %v\n%s", args, err, out)
	}
}

// script writes a script and returns its path.
func (w *world) script(name, text string) string {
	w.t.Helper()
	path := w.path(name + ".scl")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// until looks again and again until it is so.
func (w *world) until(what string, so func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); !so(); {
		if time.Now().After(deadline) {
			w.t.Fatalf("it did not happen: %s\n%s%s", what, w.run("get", "coordinators").stdout, w.run("get", "agents").stdout)
		}
		w.pause(again)
	}
}

// pause lets a time pass, of which a drill is made.
func (w *world) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-w.t.Context().Done():
	}
}

// linked waits until the agents of the racks are connected.
func (w *world) linked(names ...string) {
	w.t.Helper()
	w.until("agents are linked", func() bool {
		var agents []struct {
			Rack      string
			Connected bool
		}
		w.decodeMaybe(&agents, "get", "agents")
		linked := map[string]bool{}
		for _, a := range agents {
			linked[a.Rack] = a.Connected
		}
		for _, rack := range names {
			if !linked[rack] {
				return false
			}
		}
		return true
	})
}

// decodeMaybe is decode of what may fail while the fleet is in trouble.
func (w *world) decodeMaybe(v any, args ...string) bool {
	got := w.run(append(args, "-o", "json")...)
	return got.err == nil && json.Unmarshal([]byte(got.stdout), v) == nil
}

// leader waits until somebody leads.
func (w *world) leader() (name string) {
	w.t.Helper()
	w.until("somebody leads", func() bool {
		var all []struct{ Name, Role string }
		w.decodeMaybe(&all, "get", "coordinators")
		for _, c := range all {
			if c.Role == "leader" {
				name = c.Name
			}
		}
		return name != ""
	})
	return name
}

// cut and heal are the cable of a site.
func (w *world) cut(names ...string) {
	for _, name := range names {
		w.sites[name].cable.Set(l2.Cable{Cut: true})
	}
	w.say("cut off: %s", strings.Join(names, ", "))
}

func (w *world) heal(c l2.Cable, names ...string) {
	for _, name := range names {
		w.sites[name].cable.Set(c)
	}
	w.say("healed: %s", strings.Join(names, ", "))
}

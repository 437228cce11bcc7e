package site_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/goleak"

	"github.com/chiba-mesh/chiba/agent/site"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
)

// A probe of memberlist that is under way when it is shut down ends with its time,
// which grows on a busy machine: so nothing is left in the end, but not at once.
func TestMain(m *testing.M) {
	code := m.Run()
	for try := 1; code == 0; try++ {
		err := goleak.Find()
		if err == nil {
			break
		}
		if try == 20 {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// world is a site: its authority, its agents, and the gossip's key.
type world struct {
	t       *testing.T
	ca      *ca.Site
	key     []byte
	members []site.Member
}

// agent is one agent of it, on loopback with real gossip and QUIC.
type agent struct {
	*site.Site
	name     fleet.AgentName
	endpoint *trust.Endpoint
	denied   *trust.Denials
	stop     func()
	killed   bool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	authority, err := ca.Open(filepath.Join(t.TempDir(), "ca"), "osl1")
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, ca: authority, key: site.NewKey()}
}

func (w *world) endpoint(id trust.Identity) (*trust.Endpoint, *trust.Denials) {
	w.t.Helper()
	dir := w.t.TempDir()
	if err := w.ca.Ensure(dir, id, "127.0.0.1"); err != nil {
		w.t.Fatal(err)
	}
	creds, err := trust.Load(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	denied := &trust.Denials{}
	return trust.NewEndpoint(creds, trust.Options{Denied: denied}), denied
}

func (w *world) config(name string) site.Config {
	w.t.Helper()
	rack := strings.TrimPrefix(name, "a")
	e, _ := w.endpoint(trust.Identity{Role: trust.Agent, Domain: trust.Domain{Site: "osl1", Rack: "r" + rack}, Name: name})
	return site.Config{
		Agent: fleet.AgentName(name), Rack: fleet.RackName("r" + rack), Site: "osl1",
		Listen: "127.0.0.1:0", Endpoint: e, Log: slog.New(slog.DiscardHandler),
	}
}

// start runs an agent that knows nobody yet; it is stopped when the test ends.
func (w *world) start(c site.Config) *agent {
	w.t.Helper()
	denied := &trust.Denials{}
	c.Endpoint = trust.NewEndpoint(c.Endpoint.Credentials(), trust.Options{Denied: denied})
	s, err := site.New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	a := &agent{Site: s, name: c.Agent, endpoint: c.Endpoint, denied: denied}
	a.stop = func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) && !a.killed {
			w.t.Errorf("%s ended with %v", c.Agent, err)
		}
		ended <- context.Canceled
	}
	w.t.Cleanup(a.stop)
	return a
}

// join starts agents and tells everybody of all of them.
func (w *world) join(names ...string) []*agent {
	w.t.Helper()
	var all []*agent
	for _, name := range names {
		c := w.config(name)
		a := w.start(c)
		all = append(all, a)
		w.members = append(w.members, a.member(c.Rack))
	}
	for _, a := range all {
		a.Learn(w.members, [][]byte{w.key})
	}
	return all
}

func (a *agent) member(rack fleet.RackName) site.Member {
	gossip, calls := a.Addrs()
	return site.Member{Agent: a.name, Rack: rack, Gossip: gossip, Calls: calls}
}

// sees waits until an agent sees its peers so, as "a2+ a3-".
func (w *world) sees(a *agent, want string) {
	w.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		news := a.Changed()
		got := view(a)
		if got == want {
			return
		}
		select {
		case <-news:
		case <-deadline:
			w.t.Fatalf("%s sees %q, want %q", a.name, got, want)
		}
	}
}

func view(a *agent) string {
	var all []string
	for _, p := range a.Peers() {
		mark := "-"
		if p.Alive {
			mark = "+"
		}
		all = append(all, string(p.Agent)+mark)
	}
	return strings.Join(all, " ")
}

func TestTheyFindEachOtherAndTellWhatTheyAre(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	all := w.join("a1", "a2", "a3")
	w.sees(all[0], "a2+ a3+")
	w.sees(all[1], "a1+ a3+")
	w.sees(all[2], "a1+ a2+")
	all[0].Say("owner", 7)
	deadline := time.After(30 * time.Second)
	for {
		news := all[2].Changed()
		p := all[2].Peers()[0]
		if p.Role == "owner" && p.Epoch == 7 {
			if p.Rack != "r1" || p.Address == "" || p.Since.IsZero() {
				t.Errorf("a3 knows %+v", p)
			}
			break
		}
		select {
		case <-news:
		case <-deadline:
			t.Fatalf("a3 knows %+v", p)
		}
	}
	pong, err := all[2].Ping(t.Context(), "a1")
	slices.Sort(pong.GetAlive())
	if err != nil || pong.GetAgent() != "a1" || pong.GetEpoch() != 7 || fmt.Sprint(pong.GetAlive()) != "[a2 a3]" {
		t.Errorf("a1 says %v, %v", pong, err)
	}
}

// One that stops says so; one that dies is missed within seconds, and a direct call
// says the same. When it is back it is heard again.
func TestWhoLeavesAndWhoDies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	all := w.join("a1", "a2", "a3")
	for _, a := range all {
		w.sees(a, strings.TrimSpace(strings.ReplaceAll("a1+ a2+ a3+ ", string(a.name)+"+ ", "")))
	}
	all[2].stop()
	w.sees(all[0], "a2+ a3-")
	if _, err := all[0].Ping(t.Context(), "a3"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("who has left answers a ping: %v", err)
	}
	begun := time.Now()
	all[1].killed = true
	site.Kill(all[1].Site) // says nothing to anybody
	w.sees(all[0], "a2- a3-")
	t.Logf("its death was known after %s", time.Since(begun).Truncate(time.Millisecond))
	c := w.config("a2")
	again := w.start(c)
	w.members[1] = again.member("r2")
	again.Learn(w.members, [][]byte{w.key})
	all[0].Learn(w.members, [][]byte{w.key})
	w.sees(all[0], "a2+ a3-")
}

// Whoever is not among the members is not heard, also with the key of the gossip; nor
// is who lies about its rack.
func TestAGossipKeyMakesNoMember(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	all := w.join("a1", "a2")
	w.sees(all[0], "a2+")
	liar := w.config("a9")
	liar.Agent, liar.Rack = "a2", "r9"
	stranger := w.config("a8")
	for _, c := range []site.Config{stranger, liar} {
		s := w.start(c)
		s.Learn(slices.Concat(w.members, []site.Member{s.member(c.Rack)}), [][]byte{w.key})
		tried := time.After(3 * time.Second) // it has joined long before
		for waiting := true; waiting; {
			news := all[0].Changed()
			if got := view(all[0]); got != "a2+" || all[0].Peers()[0].Rack != "r2" {
				t.Fatalf("with %s in the gossip a1 sees %s", c.Agent, got)
			}
			select {
			case <-news:
			case <-tried:
				waiting = false
			}
		}
		s.stop()
	}
}

func TestTheKeyTurns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	all := w.join("a1", "a2")
	w.sees(all[0], "a2+")
	old := w.key
	w.key = site.NewKey()
	late := w.start(w.config("a3")) // it gets the new key alone
	w.members = append(w.members, late.member("r3"))
	all[0].Learn(w.members, [][]byte{w.key, old})
	all[1].Learn(w.members, [][]byte{w.key, old})
	late.Learn(w.members, [][]byte{w.key})
	w.sees(late, "a1+ a2+")
	w.sees(all[0], "a2+ a3+")
	third := site.NewKey()
	for _, a := range append(all, late) {
		a.Learn(w.members, [][]byte{third, w.key})
	}
	thief := w.start(w.config("a4")) // has the first key alone
	w.members = append(w.members, thief.member("r4"))
	for _, a := range append(all, late) {
		a.Learn(w.members, [][]byte{third, w.key})
	}
	thief.Learn(w.members, [][]byte{old})
	if n := site.Join(thief.Site, w.members[0].Gossip); n != 0 {
		t.Error("who has an old key gets in")
	}
	w.sees(all[0], "a2+ a3+ a4-")
}

// What is asked is answered by whom it was asked of, and by nobody else.
func TestCalls(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.config("a2")
	a, b, other := w.start(w.config("a1")), w.start(c), w.start(w.config("a3"))
	w.members = []site.Member{a.member("r1"), b.member("r2"), other.member("r3")}
	a.Learn(w.members, nil)
	for range 3 { // over one session
		if _, err := a.Ask(t.Context(), "a2", ping()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.Ask(t.Context(), "a7", ping()); !fault.Is(err, fault.NotFound) {
		t.Errorf("an agent that nobody knows: %v", err)
	}
	if _, err := a.Ask(t.Context(), "a2", &pb.SiteCall{}); !fault.Is(err, fault.Unsupported) || fault.HintOf(err) == "" {
		t.Errorf("a call that it does not know: %v", err)
	}
	w.members[1].Calls = w.members[2].Calls // a lie: it is a3 that listens there
	a.Learn(w.members, nil)
	if _, err := a.Ping(t.Context(), "a2"); !fault.Is(err, fault.Untrusted) || !strings.Contains(err.Error(), "a3") {
		t.Errorf("a3 answers in place of a2: %v", err)
	}
}

func ping() *pb.SiteCall { return &pb.SiteCall{Body: &pb.SiteCall_Ping{Ping: &pb.SitePing{}}} }

// Only agents of the same site get in, and who is denied loses also the session that
// it has.
func TestThreat24DeniedAgentOfTheSite(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	all := w.join("a1", "a2")
	if _, err := all[0].Ask(t.Context(), "a2", ping()); err != nil {
		t.Fatal(err)
	}
	all[1].denied.Set([]fleet.Denial{{Subject: "agent/a1", Reason: "stolen", At: time.Now()}})
	if _, err := all[0].Ask(t.Context(), "a2", ping()); err == nil {
		t.Error("a denied agent is answered over the session that it has")
	}
	if _, err := all[0].Ping(t.Context(), "a2"); err == nil {
		t.Error("a denied agent is answered over a new session")
	}
	all[1].denied.Set(nil)
	all[0].denied.Set([]fleet.Denial{{Subject: "rack/r2", Reason: "stolen", At: time.Now()}})
	if _, err := all[0].Ask(t.Context(), "a2", ping()); !fault.Is(err, fault.Untrusted) {
		t.Errorf("a denied agent is asked: %v", err)
	}
}

func TestOthersDoNotGetIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	all := w.join("a1")
	_, calls := all[0].Addrs()
	foreign := newWorld(t) // of the same name, another root
	for name, e := range map[string]func() *trust.Endpoint{
		"coordinator": func() *trust.Endpoint {
			e, _ := w.endpoint(trust.Identity{Role: trust.Coordinator, Domain: trust.Domain{Site: "osl1"}, Name: "c1"})
			return e
		},
		"operator": func() *trust.Endpoint {
			e, _ := w.endpoint(trust.Identity{Role: trust.Operator, Domain: trust.Domain{Site: "osl1"}, Name: "ada"})
			return e
		},
		"another mesh": func() *trust.Endpoint { return foreign.config("a2").Endpoint },
	} {
		conf := e().Agents("")
		conf.VerifyConnection = nil // it believes anybody
		session, err := mesh.DialSite(t.Context(), calls, conf)
		if err != nil {
			continue
		}
		select {
		case <-session.Done():
		case <-time.After(10 * time.Second):
			t.Errorf("%s gets in", name)
		}
		session.Close("done")
	}
}

// Who sends garbage or too much loses its stream, and harms no other.
func TestHostileCallers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	all := w.join("a1", "a2")
	_, calls := all[1].Addrs()
	session, err := mesh.DialSite(t.Context(), calls, all[0].endpoint.Agents("a2"))
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close("done")
	for name, bytes := range map[string]string{
		"no protobuf":    "\x00\x00\x00\x04\xff\xff\xff\xff",
		"far too long":   "\xff\xff\xff\xff",
		"no kind":        "\x00\x00\x00\x00",
		"call of rubble": "\x00\x00\x00\x02\x08\x3c\x00\x00\x00\x04\xff\xff\xff\xff",
		"huge call":      "\x00\x00\x00\x02\x08\x3c\x7f\xff\xff\xff",
	} {
		stream, err := session.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err = stream.Write([]byte(bytes)); err != nil {
			t.Fatal(err)
		}
		if err = stream.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if n, err := stream.Read(make([]byte, 1)); n != 0 || err == nil || strings.Contains(err.Error(), "deadline") {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
		if _, err := all[0].Ask(t.Context(), "a2", ping()); err != nil {
			t.Errorf("%s harms another: %v", name, err)
		}
	}
}

func TestOneAgentTakesNotAllSessions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	all := w.join("a1", "a2", "a3")
	refused := 0
	for range site.MaxOfOne + 3 {
		session, err := all[0].Dial(t.Context(), "a2")
		if err != nil {
			t.Fatal(err)
		}
		defer session.Close("done")
		if stream, err := session.Open(t.Context()); err != nil || mesh.NewChannel(stream, 0).Send(&pb.StreamOpen{Kind: pb.StreamOpen_SITE}) != nil {
			refused++
		} else if ch := mesh.NewChannel(stream, 0); ch.Send(ping()) != nil || ch.Receive(&pb.SiteReply{}) != nil {
			refused++
		}
	}
	if refused != 3 {
		t.Errorf("%d of %d sessions were refused", refused, site.MaxOfOne+3)
	}
	if _, err := all[2].Ping(t.Context(), "a2"); err != nil {
		t.Errorf("another agent has no place: %v", err)
	}
}

func TestListen(t *testing.T) {
	for _, bad := range []string{"", "host:1", "0.0.0.0:7445", "[::]:7445", "127.0.0.1", "127.0.0.1:65535", "224.0.0.1:1"} {
		if _, _, err := site.ParseListen(bad); !fault.Is(err, fault.BadInput) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if ip, port, err := site.ParseListen("[fd00::1]:7445"); err != nil || ip.String() != "fd00::1" || port != 7445 {
		t.Errorf("%s, %d, %v", ip, port, err)
	}
}

// A site is bounded, whatever is told of it.
func TestTooManyMembers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.join("a1")[0]
	var many []site.Member
	for i := range site.MaxMembers + 50 {
		many = append(many, site.Member{Agent: fleet.AgentName(fmt.Sprintf("b%04d", i)), Rack: "r"})
	}
	a.Learn(many, nil)
	if n := len(a.Peers()); n != site.MaxMembers {
		t.Errorf("it has %d peers", n)
	}
	if err := site.Merge(a.Site, make([]*memberlist.Node, site.MaxMembers+1)); err == nil {
		t.Error("it takes a table of any size")
	}
}

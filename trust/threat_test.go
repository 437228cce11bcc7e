package trust_test

import (
	"crypto/tls"
	"crypto/x509"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
)

// pairOf is an agent and a coordinator of one site.
func pairOf(t *testing.T) (agent, coordinator trust.Credentials) {
	t.Helper()
	dir := t.TempDir()
	site, err := ca.Open(filepath.Join(dir, "ca"), "osl1")
	if err != nil {
		t.Fatal(err)
	}
	get := func(id trust.Identity) trust.Credentials {
		at := filepath.Join(dir, id.Name)
		if err := site.Ensure(at, id, "127.0.0.1"); err != nil {
			t.Fatal(err)
		}
		creds, err := trust.Load(at)
		if err != nil {
			t.Fatal(err)
		}
		return creds
	}
	return get(trust.Identity{Role: trust.Agent, Domain: trust.Domain{Rack: "r17"}, Name: "a17"}),
		get(trust.Identity{Role: trust.Coordinator, Name: "c1"})
}

// handshake runs TLS between the two; the client reads until the server has closed,
// so that it learns of a refusal and gets its session tickets.
func handshake(t *testing.T, client, server *tls.Config) (state tls.ConnectionState, clientErr, serverErr error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0") // a pipe has no buffer: two who write at once wait for ever
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	near, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		conn := tls.Server(far, server)
		err := conn.HandshakeContext(t.Context())
		if err == nil {
			_, err = conn.Write([]byte("x"))
		}
		_ = far.Close()
		done <- err
	}()
	conn := tls.Client(near, client)
	if clientErr = conn.HandshakeContext(t.Context()); clientErr == nil {
		_, clientErr = conn.Read(make([]byte, 1))
	}
	state = conn.ConnectionState()
	_ = near.Close()
	return state, clientErr, <-done
}

// A revoked agent that kept a session can't resume it: resumption is off, and where
// it is switched on all the same, the check runs again.
func TestThreat23RevokedAgentResumes(t *testing.T) {
	agent, coordinator := pairOf(t)
	for name, tickets := range map[string]bool{"resumption off": false, "resumption on by mistake": true} {
		t.Run(name, func(t *testing.T) {
			var denied trust.Denials
			server := trust.NewEndpoint(coordinator, trust.Options{Denied: &denied}).Server(trust.Agent)
			server.SessionTicketsDisabled = !tickets
			client := agent.Client()
			client.SessionTicketsDisabled = false
			client.ClientSessionCache, client.ServerName = tls.NewLRUClientSessionCache(4), "c1"
			for range 2 {
				state, clientErr, serverErr := handshake(t, client, server)
				if clientErr != nil || serverErr != nil {
					t.Fatal(clientErr, serverErr)
				}
				if state.DidResume && !tickets {
					t.Error("it resumed a session")
				}
			}
			denied.Set([]fleet.Denial{{Subject: "agent/a17", Reason: "stolen", At: time.Now()}})
			state, clientErr, serverErr := handshake(t, client, server)
			if clientErr == nil || serverErr == nil || !strings.Contains(serverErr.Error(), "stolen") {
				t.Errorf("it got in: resumed %v, %v, %v", state.DidResume, clientErr, serverErr)
			}
			if tickets && !state.DidResume {
				t.Error("it did not try to resume: the test shows nothing")
			}
		})
	}
}

// Everything by which somebody can be denied is looked at, on both sides.
func TestDeniedOnBothSides(t *testing.T) {
	agent, coordinator := pairOf(t)
	path := agent.Chain()
	id, err := agent.Identity()
	if err != nil {
		t.Fatal(err)
	}
	subjects := trust.SubjectsOf(path, id)
	if len(subjects) != 2+2*3 { // agent, rack; key and number of leaf, site and root
		t.Fatalf("subjects %v", subjects)
	}
	for _, s := range subjects {
		parsed, err := trust.ParseSubject(s)
		if err != nil || parsed != s {
			t.Errorf("%s is read as %s, %v", s, parsed, err)
		}
		var denied trust.Denials
		denied.Set([]fleet.Denial{{Subject: s}})
		server := trust.NewEndpoint(coordinator, trust.Options{Denied: &denied}).Server(trust.Agent)
		if _, _, err := handshake(t, agent.Client(), server); err == nil {
			t.Errorf("%s is denied and got in", s)
		}
	}
	for _, s := range []string{"coordinator/c1", trust.Pin(coordinator.Certificate.Leaf)} {
		subject, err := trust.ParseSubject(s)
		if err != nil {
			t.Fatal(err)
		}
		var denied trust.Denials
		denied.Set([]fleet.Denial{{Subject: subject}})
		client := trust.NewEndpoint(agent, trust.Options{Denied: &denied}).Client()
		if _, err, _ := handshake(t, client, coordinator.Server(trust.Agent)); err == nil {
			t.Errorf("a coordinator that is denied as %s is believed", s)
		}
	}
}

func TestSubjectsThatNameNobody(t *testing.T) {
	for _, s := range []string{"", "agent", "agent/", "agent/a b", "root/x", "spki/12", "spki/zz", "serial/", "serial/0", "serial/x", "rack/R_1", "sha256/abc", "bmc/x", "serial:", "serial: a b", "serial:" + strings.Repeat("1", 65)} {
		if got, err := trust.ParseSubject(s); !fault.Is(err, fault.BadInput) {
			t.Errorf("%q is read as %q, %v", s, got, err)
		}
	}
	for s, want := range map[string]string{
		"serial:sn-7": "serial:SN-7", "serial/0A:BC": "serial/abc", "serial/ABC": "serial/abc",
		"spki/" + strings.Repeat("AB", 32): "spki/" + strings.Repeat("ab", 32),
	} {
		if got, err := trust.ParseSubject(s); got != want || err != nil {
			t.Errorf("%q is read as %q, %v", s, got, err)
		}
	}
}

// A certificate that ends ends the sessions that it opened. The clock is told: it
// says that the end is near.
func TestThreat25CertificateEndsOnALiveConnection(t *testing.T) {
	agent, coordinator := pairOf(t)
	began := time.Now()
	end := agent.Certificate.Leaf.NotAfter
	late := func() time.Time { return end.Add(time.Since(began) - 1500*time.Millisecond) }
	listener, err := mesh.Listen("127.0.0.1:0", trust.NewEndpoint(coordinator, trust.Options{Now: late}).Server(trust.Agent), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	conn, err := mesh.Dial(t.Context(), listener.Addr(), trust.NewEndpoint(agent, trust.Options{Now: late}).Client())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close("test over")
	if _, err := listener.Accept(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-conn.Done():
		if now := late(); now.Before(end) || now.After(end.Add(time.Second)) {
			t.Errorf("it ended at %s, the certificate at %s", now, end)
		}
		if !strings.Contains(conn.Err().Error(), "certificate expired") {
			t.Errorf("it ended with %v", conn.Err())
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the session outlived its certificate")
	}
}

// A clock that is wrong has a defined end: ten minutes do not matter; a year does,
// and is said as such.
func TestThreat27ClockSkew(t *testing.T) {
	agent, coordinator := pairOf(t)
	at := func(year int) time.Time { return time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC) }
	for name, c := range map[string]struct {
		agent, coordinator time.Time
		want               bool
	}{
		"right":                   {time.Now(), time.Now(), true},
		"agent 10 min behind":     {time.Now().Add(-10 * time.Minute), time.Now(), true},
		"agent 10 min ahead":      {time.Now().Add(10 * time.Minute), time.Now(), true},
		"coordinator behind":      {time.Now(), time.Now().Add(-10 * time.Minute), true},
		"coordinator ahead":       {time.Now(), time.Now().Add(10 * time.Minute), true},
		"agent in 1970":           {at(1970), time.Now(), false},
		"agent in 2100":           {at(2100), time.Now(), false},
		"coordinator in 1970":     {time.Now(), at(1970), false},
		"coordinator in 2100":     {time.Now(), at(2100), false},
		"both in 2100, in unison": {at(2100), at(2100), false},
	} {
		t.Run(name, func(t *testing.T) {
			now := func(t time.Time) trust.Options { return trust.Options{Now: func() time.Time { return t }} }
			_, clientErr, serverErr := handshake(t,
				trust.NewEndpoint(agent, now(c.agent)).Client(), trust.NewEndpoint(coordinator, now(c.coordinator)).Server(trust.Agent))
			if (clientErr == nil && serverErr == nil) != c.want {
				t.Fatalf("%v, %v; want success %v", clientErr, serverErr, c.want)
			}
			if c.want {
				return
			}
			// Whoever's clock is wrong says both times and what to compare.
			said := clientErr.Error()
			if fault.HintOf(clientErr) == "" {
				said = serverErr.Error()
			}
			if !strings.Contains(said, "is good from") || !strings.Contains(said, "here it is") {
				t.Errorf("it says %q, %q", clientErr, serverErr)
			}
		})
	}
}

// The clock that judges never goes below the last signed time, not over a restart
// either.
func TestThreat27TimeNeverGoesBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), trust.ClockFile)
	start := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	machine := start
	open := func() *trust.Clock {
		c, err := trust.OpenClock(path, func() time.Time { return machine })
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	limit := start.Add(24 * time.Hour)
	clock := open()
	if err := clock.Saw(start.Add(time.Hour), limit); err != nil {
		t.Fatal(err)
	}
	expect := func(want time.Time) {
		t.Helper()
		if got := clock.Now(); !got.Equal(want) {
			t.Errorf("it is %s, want %s", got, want)
		}
	}
	expect(start.Add(time.Hour))
	machine = machine.Add(10 * time.Minute) // goes on from there, though the machine's is behind
	expect(start.Add(70 * time.Minute))
	if behind := clock.Behind(); behind != time.Hour {
		t.Errorf("behind by %s", behind)
	}
	machine = time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC) // the battery is dead
	clock = open()
	expect(start.Add(time.Hour))
	if err := clock.Saw(start, limit); err != nil { // an older one changes nothing
		t.Fatal(err)
	}
	expect(start.Add(time.Hour))
	if err := clock.Saw(time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), limit); !fault.Is(err, fault.Untrusted) {
		t.Errorf("the year 2100: %v", err)
	}
	expect(start.Add(time.Hour))
	machine = limit // set right again; in one process the monotonic clock tells what has passed
	clock = open()
	expect(limit)
	if err := os.WriteFile(path, []byte("yesterday"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := trust.OpenClock(path, nil); !fault.Is(err, fault.Garbage) {
		t.Errorf("a damaged file: %v", err)
	}
}

func TestThreat34OlderTLS(t *testing.T) {
	agent, coordinator := pairOf(t)
	for name, c := range map[string]struct{ client, server *tls.Config }{
		"an agent of TLS 1.2": {older(agent.Client()), coordinator.Server(trust.Agent)},
		"a coordinator of it": {agent.Client(), older(coordinator.Server(trust.Agent))},
	} {
		if _, clientErr, serverErr := handshake(t, c.client, c.server); clientErr == nil || serverErr == nil {
			t.Errorf("%s: %v, %v", name, clientErr, serverErr)
		}
	}
}

func older(conf *tls.Config) *tls.Config {
	conf.MinVersion, conf.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	return conf
}

// Renewed credentials are used by the configurations that are there already.
func TestReplaceIsSeenByTheNextHandshake(t *testing.T) {
	agent, coordinator := pairOf(t)
	other, foreign := pairOf(t)
	server, client := trust.NewEndpoint(coordinator, trust.Options{}), trust.NewEndpoint(agent, trust.Options{})
	accept, dial := server.Server(trust.Agent), client.Client()
	if _, err, _ := handshake(t, dial, accept); err != nil {
		t.Fatal(err)
	}
	server.Replace(foreign)
	if _, err, _ := handshake(t, dial, accept); err == nil {
		t.Error("the server still shows what it had")
	}
	client.Replace(other)
	if _, err, _ := handshake(t, dial, accept); err != nil {
		t.Errorf("the client still judges by what it had: %v", err)
	}
	if _, err := server.Verify(agent.Chain(), x509.ExtKeyUsageClientAuth, trust.Agent); err == nil {
		t.Error("another mesh's agent is taken")
	}
}

// A denial made anywhere survives any order in which the lists meet.
func TestThreat38MergeIsUnion(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	when := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	lists := make([][]fleet.Denial, 3)
	seen := map[string]bool{}
	for range 200 {
		d := fleet.Denial{Subject: "agent/a" + string(rune('a'+r.IntN(26))), At: when.Add(time.Duration(r.IntN(100)) * time.Hour)}
		i := r.IntN(len(lists))
		lists[i] = append(lists[i], d)
		seen[d.Subject] = true
	}
	one := trust.MergeDenials(lists[0], lists[1], lists[2])
	other := trust.MergeDenials(trust.MergeDenials(lists[2], lists[0]), lists[1], lists[0])
	if diff := cmp.Diff(one, other); diff != "" {
		t.Errorf("the order matters:\n%s", diff)
	}
	for _, d := range one {
		delete(seen, d.Subject)
	}
	if len(seen) != 0 {
		t.Errorf("lost: %v", seen)
	}
}

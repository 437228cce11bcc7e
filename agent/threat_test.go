package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/bmctest"
	"github.com/chiba-mesh/chiba/trust/level"
	"github.com/chiba-mesh/chiba/trust/seal"
	"github.com/chiba-mesh/chiba/trust/sign/signtest"
)

// whispers is a finder that says what it is told to.
type whispers []discovery.Sighting

func (w whispers) Run(ctx context.Context, out chan<- discovery.Sighting) error {
	for _, s := range w {
		select {
		case out <- s:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	<-ctx.Done()
	return ctx.Err()
}

// guard is an agent with real lanes that knows one BMC, by its key, and hears of
// it what heard says.
func guard(t *testing.T, known *bmcsim.BMC, heard whispers) (*Agent, *lockedBuffer) {
	t.Helper()
	logs, dir := &lockedBuffer{}, t.TempDir()
	cfg := Config{
		Name: "a1", Rack: "r1", Site: "s1", State: dir, Coordinators: []string{"127.0.0.1:1"}, NoMDNS: true,
		Login: Login{Factory: FactoryOpenBMC}, Log: slog.New(slog.NewTextHandler(logs, nil)),
		Nodes: []Entry{{Name: "n1", Pin: known.Pin(), Serial: "S1"}},
	}
	if _, err := signtest.New(dir); err != nil {
		t.Fatal(err)
	}
	key, err := seal.OpenKey(dir + "/" + sealFile)
	if err != nil {
		t.Fatal(err)
	}
	disk, err := spool.Open(dir+"/"+spoolFile, spool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	a, err := assemble(cfg, disk, key)
	if err != nil {
		t.Fatal(err)
	}
	a.link, a.finders = &fakeLink{}, []finder{heard}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the agent ended with %v", err)
		}
	})
	return a, logs
}

// until waits for what other goroutines bring about, for ten seconds.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for over := time.After(10 * time.Second); !is(); {
		select {
		case <-tick.C:
		case <-over:
			t.Fatalf("it did not happen in 10 s: %s", what)
		}
	}
}

// address is host:port of a base URL.
func address(url string) string { return strings.TrimPrefix(url, "https://") }

// onlyItsRoot sees to it that a stranger was asked for what it tells anybody, and
// nothing else.
func onlyItsRoot(t *testing.T, stranger *bmcsim.BMC) {
	t.Helper()
	for _, r := range stranger.Requests() {
		if r.Method != http.MethodGet || r.Path != "/redfish/v1/" {
			t.Errorf("it was sent %v", r)
		}
	}
}

// A rogue that announces itself under a known BMC's name, before and after it,
// is asked for its key and its service root, and told nothing: no password.
func TestThreat01RogueWithAKnownName(t *testing.T) {
	known, knownURL := bmctest.Start(t, bmcsim.Config{Hostname: "n1", Serial: "S1", PowerOn: true})
	rogue, rogueURL := bmctest.Start(t, bmcsim.Config{Hostname: "n1", Serial: "S1", PowerOn: true})
	says := func(url string) discovery.Sighting {
		return discovery.Sighting{Address: address(url), Name: "redfish on n1", Found: "mdns", Service: "_obmc_redfish._tcp", Source: "127.0.0.1"}
	}
	a, logs := guard(t, known, whispers{says(rogueURL), says(knownURL), says(rogueURL)})
	n := a.rack.named("n1")
	until(t, "the known BMC is ready", func() bool { return n.seen().State == fleet.Ready })
	until(t, "the stranger is told of", func() bool { return strings.Contains(logs.String(), rogue.Pin()) })
	if at := n.seen().Address; at != address(knownURL) {
		t.Errorf("the node is at %s, want %s", at, address(knownURL))
	}
	if l := a.judge(n).Level; l != level.Admitted { // its password is the factory's
		t.Errorf("the known BMC is believed %s", l)
	}
	if s := rogue.Stats(); s.Handshakes == 0 || s.Logins != 0 {
		t.Errorf("the rogue saw %d logins in %d handshakes", s.Logins, s.Handshakes)
	}
	onlyItsRoot(t, rogue)
	if known.Stats().Logins != 1 {
		t.Errorf("the known BMC saw %d logins, want one", known.Stats().Logins)
	}
}

// What a TXT record claims gives nobody a node: neither its serial nor its UUID
// nor a role.
func TestThreat02ClaimedSerialAndRole(t *testing.T) {
	known, err := bmcsim.New(bmcsim.Config{Hostname: "n1", Serial: "S1"}) // it is away
	if err != nil {
		t.Fatal(err)
	}
	rogue, url := bmctest.Start(t, bmcsim.Config{Hostname: "n1", Serial: "S1", PowerOn: true})
	var heard whispers
	for _, hint := range []string{"serial=S1", "role=coordinator type=Manager", "pin=" + known.Pin(), "trust=T3"} {
		heard = append(heard, discovery.Sighting{
			Address: address(url), Name: "n1", Found: "mdns", Service: "_redfish._tcp", Source: "127.0.0.1", Hint: hint, UUID: "as of n1",
		})
	}
	a, logs := guard(t, known, heard)
	until(t, "the stranger is told of", func() bool { return strings.Contains(logs.String(), rogue.Pin()) })
	if l := a.judge(a.rack.named("n1")).Level; l != level.Seen {
		t.Errorf("the one that is away is believed %s", l)
	}
	if way, err := a.rack.named("n1").way(); err == nil {
		t.Errorf("what it says of itself gave it the node: %v", way)
	}
	onlyItsRoot(t, rogue)
	if slices.ContainsFunc(a.rack.members(), func(n *node) bool { return n.seen().State == fleet.Ready }) {
		t.Error("a node counts as ready")
	}
}

package e2e_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
)

// intruder is somebody who would be an agent of rack r77.
type intruder struct {
	by    *ca.Site // who has issued its certificate; nil: the fleet's
	id    trust.Identity
	ended bool     // its certificate has
	says  []string // what a person reads who looks at its log
}

var r77 = trust.Identity{Role: trust.Agent, Domain: trust.Domain{Rack: "r77"}, Name: "agent-r77"}

// An agent with a certificate that has expired, or is another mesh's, or of somebody
// else, is told so in words that lead on; it never becomes an agent of the fleet, and
// the others work as before.
func TestAgentsThatAreNotBelieved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.dev()
	foreign, err := ca.Open(t.TempDir(), "dev")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]intruder{
		"an expired certificate": {id: r77, ended: true, says: []string{"renew our certificate, which has ended"}},
		"a foreign certificate":  {by: foreign, id: r77, says: []string{"no link to the coordinators", "bad certificate"}},
		"a person's certificate": {
			id:   trust.Identity{Role: trust.Operator, Name: "agent-r77"},
			says: []string{`its role is "agent", the certificate has "operator"`, "hint: give it a certificate for agent-r77"},
		},
		"another's certificate": {
			id:   trust.Identity{Role: trust.Agent, Domain: trust.Domain{Rack: "r78"}, Name: "agent-r78"},
			says: []string{`its name is "agent-r77", the certificate has "agent-r78"`, "hint: give it a certificate for agent-r77"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{t: t, dir: w.dir}
			p := w.intrude(c)
			for _, text := range c.says {
				p.wait(text)
			}
			p.kill()
			w.unharmed()
		})
	}
}

// intrude starts an agent of rack r77 beside the fleet.
func (w *world) intrude(c intruder) *process {
	w.t.Helper()
	dir, err := os.MkdirTemp(w.dir, "x") // its socket needs a short path
	by := c.by
	if by == nil {
		by = w.site()
	}
	if err == nil {
		err = by.Ensure(dir, c.id)
	}
	if err == nil && c.ended {
		err = w.expire(dir)
	}
	for _, file := range []string{trust.CAFile, "script-root.json"} {
		var text []byte
		if err == nil {
			text, err = os.ReadFile(filepath.Join(w.dir, "agent", file))
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, file), text, 0o600)
		}
	}
	if err == nil {
		config := fmt.Sprintf("name: agent-r77\nrack: r77\nsite: dev\nstate: .\nno_mdns: true\ncoordinators: [%q]\nnodes: []\n", w.mesh())
		err = os.WriteFile(filepath.Join(dir, "agent.yaml"), []byte(config), 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return w.beside("agent", "--state", dir)
}

// expire has the certificate in dir end a minute ago.
func (w *world) expire(dir string) error {
	creds, err := trust.Load(dir)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(w.dir, "ca", "site", "key.pem"))
	if err != nil {
		return err
	}
	block, _ := pem.Decode(text)
	by, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return err
	}
	leaf, issuer := *creds.Certificate.Leaf, creds.Certificate.Certificate[1]
	leaf.NotAfter = time.Now().Add(-time.Minute)
	site, err := x509.ParseCertificate(issuer)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, &leaf, site, leaf.PublicKey, by)
	if err != nil {
		return err
	}
	var chain []byte
	for _, cert := range [][]byte{der, issuer} {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})...)
	}
	return os.WriteFile(filepath.Join(dir, trust.CertFile), chain, 0o600)
}

func (w *world) site() *ca.Site {
	w.t.Helper()
	site, err := ca.OpenSite(filepath.Join(w.dir, "ca", "site"))
	if err != nil {
		w.t.Fatal(err)
	}
	return site
}

// mesh is where the first coordinator takes agents.
func (w *world) mesh() string {
	w.t.Helper()
	addr, err := os.ReadFile(filepath.Join(w.dir, "coordinator", "mesh.addr"))
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.TrimSpace(string(addr))
}

// unharmed checks that the fleet has the agent that it had, which works.
func (w *world) unharmed() {
	w.t.Helper()
	var agents []agent
	w.decode(&agents, "get", "agents")
	if len(agents) != 1 || agents[0].Name != "agent-r01" || !agents[0].Connected {
		w.t.Errorf("the agents are %+v", agents)
	}
	w.must("apply", "--yes", w.file("light.scl", `(action "r01-u04" (set-indicator on))`))
}

// Peers with a certificate that is good, and which then speak another version, send
// garbage or oversized frames, or never read what they asked for: a coordinator refuses
// or leaves them, and serves the others.
func TestPeersThatMisbehave(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dev := w.dev()
	dir := t.TempDir()
	if err := w.site().Ensure(dir, r77); err != nil {
		t.Fatal(err)
	}
	creds, err := trust.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	hello := func(version uint32) *pb.FromAgent {
		return &pb.FromAgent{Body: &pb.FromAgent_Hello{Hello: &pb.Hello{
			Version: version, Agent: "agent-r77", Rack: "r77", Site: "dev", SpoolEpoch: 7, FirstUnacked: 1, NextSeq: 1, Build: "test",
		}}}
	}
	for name, c := range map[string]struct {
		do   func(mesh.Stream, *mesh.Channel) error
		says string // as the refusal that it is told; empty: none is due
	}{
		"an unknown version": {func(_ mesh.Stream, ch *mesh.Channel) error { return ch.Send(hello(99)) }, "version 99"},
		"garbage": {func(s mesh.Stream, _ *mesh.Channel) error {
			_, err := s.Write([]byte{0, 0, 0, 2, 0xff, 0xff})
			return err
		}, "decode message"},
		"an oversized frame":  {func(s mesh.Stream, _ *mesh.Channel) error { _, err := s.Write([]byte{0x7f, 0, 0, 0}); return err }, "the limit is"},
		"it asks and is deaf": {func(_ mesh.Stream, ch *mesh.Channel) error { return pulls(ch, hello(1)) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			session, err := mesh.Dial(ctx, w.mesh(), creds.Client())
			if err != nil {
				t.Fatal(err)
			}
			defer session.Close("test over")
			stream, err := session.Open(ctx)
			if err != nil {
				t.Fatal(err)
			}
			ch := mesh.NewChannel(stream, 0)
			if err := ch.Send(&pb.StreamOpen{Kind: pb.StreamOpen_CONTROL}); err != nil {
				t.Fatal(err)
			}
			if err := c.do(stream, ch); err != nil {
				t.Fatal(err)
			}
			if c.says != "" {
				var told pb.FromCoordinator
				if err := ch.Receive(&told); err != nil || !strings.Contains(told.GetRefusal().GetError(), c.says) {
					t.Errorf("it is told %v, %v; want %q", &told, err, c.says)
				}
			}
			w.must("apply", "--yes", w.file("light.scl", `(action "r01-u04" (set-indicator on))`))
		})
	}
	w.must("audit", "verify")
	if code := dev.interrupt(); code != 0 {
		t.Errorf("Ctrl-C: exit %d", code)
	}
}

// pulls asks for the desired state many times, and reads none of it.
func pulls(ch *mesh.Channel, hello *pb.FromAgent) error {
	err := ch.Send(hello)
	for n := 0; n < 100 && err == nil; n++ {
		err = ch.Send(&pb.FromAgent{Body: &pb.FromAgent_Pull{Pull: &pb.Pull{}}})
	}
	return err
}

package e2e_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	agentenroll "github.com/chiba-mesh/chiba/agent/enroll"
	coordenroll "github.com/chiba-mesh/chiba/coordinator/enroll"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	trustenroll "github.com/chiba-mesh/chiba/trust/enroll"
)

// oneWay carries datagrams to a server, and its answers back until it is deaf.
type oneWay struct {
	addr string
	deaf atomic.Bool
}

func newOneWay(t *testing.T, to string) *oneWay {
	t.Helper()
	near, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	far, err := (&net.Dialer{}).DialContext(t.Context(), "udp", to)
	if err != nil {
		t.Fatal(err)
	}
	o := &oneWay{addr: near.LocalAddr().String()}
	var client atomic.Pointer[net.Addr]
	var both sync.WaitGroup
	both.Go(func() {
		for packet := make([]byte, 65536); ; {
			n, from, err := near.ReadFrom(packet)
			if err != nil {
				return
			}
			client.Store(&from)
			_, _ = far.Write(packet[:n])
		}
	})
	both.Go(func() {
		for packet := make([]byte, 65536); ; {
			n, err := far.Read(packet)
			if err != nil {
				return
			}
			if to := client.Load(); to != nil && !o.deaf.Load() {
				_, _ = near.WriteTo(packet[:n], *to)
			}
		}
	})
	t.Cleanup(func() {
		_ = near.Close()
		_ = far.Close()
		both.Wait()
	})
	return o
}

// unheard enrols through o by a token, to the end, and hears no answer to its last
// message.
func (o *oneWay) unheard(t *testing.T, n agentenroll.Newcomer, b trustenroll.Bundle) {
	t.Helper()
	shown, err := agentenroll.SelfSigned(n.Key)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := mesh.DialEnroll(t.Context(), o.addr, &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{shown}, InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection: func(state tls.ConnectionState) error {
			_, verifyErr := trust.VerifyPinned(state.PeerCertificates, b.Pins, time.Now())
			return verifyErr
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close("test over") })
	stream, err := conn.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ch := mesh.NewChannel(stream, trustenroll.MaxMessage)
	begin := &pb.EnrolBegin{Versions: []uint32{trustenroll.Version}, Token: b.Token, Name: b.Name, Rack: b.Rack, Mark: n.Mark}
	begun, err := proto.MarshalOptions{Deterministic: true}.Marshal(begin)
	if err != nil {
		t.Fatal(err)
	}
	answer := &pb.FromEnroller{}
	if err = ch.Send(&pb.ToEnroller{Body: &pb.ToEnroller_Begin{Begin: begin}}); err == nil {
		err = ch.Receive(answer)
	}
	c := answer.GetChallenge()
	if err != nil || c == nil {
		t.Fatalf("no challenge: %v, %v", answer, err)
	}
	exporter, err := conn.Export(trustenroll.ExporterLabel, trustenroll.ExporterSize)
	if err != nil {
		t.Fatal(err)
	}
	said := trustenroll.Transcript{
		Begin: begun, Version: trustenroll.Version, Nonce: c.GetNonce(), Ticket: c.GetTicket(), Exporter: exporter, SPKI: coordenroll.SPKI(shown.Leaf),
	}
	proof, err := said.Prove(b.Secret)
	if err != nil {
		t.Fatal(err)
	}
	o.deaf.Store(true)
	if err = ch.Send(&pb.ToEnroller{Body: &pb.ToEnroller_Finish{Finish: &pb.EnrolFinish{Ticket: c.GetTicket(), Proof: proof}}}); err != nil {
		t.Fatal(err)
	}
}

// Three coordinators with one log, each a process. The leader commits an enrolment, its
// answer is lost, and it dies by SIGKILL. The machine asks the others with the key and
// mark on its disk, and the dead one when it is back: each has the one certificate that
// was decided. A copy of the bundle gets none.
func TestThreat18LeaderKilledBetweenCommitAndReply(t *testing.T) {
	t.Parallel()
	c := &cluster{world: newWorldOf(t, 3), coordinators: map[string]*process{}}
	c.start("dev", "--only", "sim", "--coordinators", "3").wait("ready in")
	for name := range coordinatorParts {
		c.run1(name)
	}
	c.ready()
	file := filepath.Join(c.dir, "join.bundle")
	c.must("trust", "token", "create", "--rack", "r17", "--out", file)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b, _, err := trustenroll.DecodeBundle(text, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	n, err := agentenroll.Prepare(dir, b.Name, b.Rack, b.Token)
	if err != nil {
		t.Fatal(err)
	}
	leader := c.leader()
	newOneWay(t, c.door(leader)).unheard(t, n, b)
	c.until("it is committed", func() bool { return strings.Contains(c.must("trust", "token", "list"), "used ") })
	c.coordinators[leader].kill()
	c.until("another leads", func() bool { return c.leader() != leader })

	serials := map[string]bool{}
	ask := func(name string) {
		t.Helper()
		mine := b
		mine.Coordinators = []string{c.door(name)}
		again, err := agentenroll.Prepare(dir, b.Name, b.Rack, b.Token)
		if err != nil {
			t.Fatal(err)
		}
		joined, err := again.ByToken(t.Context(), mine, time.Now)
		if err != nil {
			t.Fatalf("at %s: %v", name, err)
		}
		serials[joined.Credentials.Certificate.Leaf.SerialNumber.String()] = true
		thief, err := agentenroll.Prepare(t.TempDir(), b.Name, b.Rack, b.Token)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := thief.ByToken(t.Context(), mine, time.Now); !fault.Is(err, fault.Conflict) {
			t.Errorf("another key at %s: %v", name, err)
		}
	}
	for name := range coordinatorParts {
		if name != leader {
			ask(name)
		}
	}
	c.run1(leader)
	c.ready()
	ask(leader)
	if len(serials) != 1 {
		t.Errorf("it was given %d certificates: %v", len(serials), serials)
	}
	if log := c.must("audit", "log"); strings.Count(log, "enrol ") != 1 {
		t.Errorf("the audit log has not one enrolment:\n%s", log)
	}
}

// door is where a coordinator takes newcomers.
func (c *cluster) door(name string) string {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(c.dir, coordinatorParts[name], "mesh.addr"))
	if err != nil {
		c.t.Fatal(fmt.Errorf("the door of %s: %w", name, err))
	}
	return strings.TrimSpace(string(text))
}

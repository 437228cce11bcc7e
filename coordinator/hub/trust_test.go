package hub_test

import (
	"crypto/x509"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
)

func deny(subject string) *pb.Command {
	return &pb.Command{Body: &pb.Command_Deny{Deny: &pb.Deny{Denials: []*pb.Denial{{Subject: subject, Reason: "stolen", By: "ada"}}}}}
}

// A denial ends the session of its agent within a second of being applied; nobody
// else notices, and the agent does not get in again until it is allowed.
func TestThreat24RevokedAgentWithALiveConnection(t *testing.T) {
	w := newWorld(t, 0)
	for _, subject := range []string{"agent/a-r1", "rack/r1"} {
		t.Run(subject, func(t *testing.T) {
			bad, good := w.join("r1"), w.join("r2")
			w.commit(deny(subject))
			applied := time.Now()
			select {
			case <-bad.conn.Done():
			case <-time.After(patience):
				t.Fatal("the session lives on")
			}
			if took := time.Since(applied); took > time.Second {
				t.Errorf("it took %s", took)
			}
			if !strings.Contains(bad.conn.Err().Error(), "stolen") {
				t.Errorf("it is not told why: %v", bad.conn.Err())
			}
			conn, err := mesh.Dial(t.Context(), w.addr, w.credentials(trust.Agent, "a-r1").Client())
			if err == nil { // in TLS 1.3 it learns of the refusal only later
				select {
				case <-conn.Done():
				case <-time.After(patience):
					t.Error("it is let in again")
				}
			}
			d := good.tell(nil).GetDenied()
			if len(d) != 1 || d[0].GetSubject() != subject {
				t.Errorf("the other agents are told %v", d)
			}
			w.commit(&pb.Command{Body: &pb.Command_Allow{Allow: &pb.Allow{Subject: subject, By: "ada"}}})
			w.join("r1").conn.Close("bye")
			good.conn.Close("bye")
		})
	}
}

// tell pulls, and tells what was denied here. Hints may come before the answer.
func (a *agent) tell(denied []*pb.Denial) *pb.Desired {
	a.t.Helper()
	a.say(&pb.FromAgent{Body: &pb.FromAgent_Pull{Pull: &pb.Pull{Denied: denied}}})
	for {
		m, err := a.hear()
		if err != nil {
			a.t.Fatal(err)
		}
		if d := m.GetDesired(); d != nil {
			return d
		}
	}
}

func (a *agent) renew(q *pb.Renew) *pb.Renewed {
	a.t.Helper()
	a.say(&pb.FromAgent{Body: &pb.FromAgent_Renew{Renew: q}})
	return a.expect(func(m *pb.FromCoordinator) bool { return m.GetRenewed() != nil }).GetRenewed()
}

func parse(t *testing.T, der [][]byte) []*x509.Certificate {
	t.Helper()
	var chain []*x509.Certificate
	for _, raw := range der {
		c, err := x509.ParseCertificate(raw)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, c)
	}
	return chain
}

// An agent renews over the session it has: for the key it has proven there, in its
// own name and rack, whatever it says.
func TestRenewal(t *testing.T) {
	w := newWorld(t, 0)
	a := w.join("r1")
	creds := w.credentials(trust.Agent, "a-r1")
	rack, err := ca.OpenRack(filepath.Join(t.TempDir(), "rack"), trust.Domain{Site: "s1", Rack: "r1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	csr, _, err := rack.CSR()
	if err != nil {
		t.Fatal(err)
	}
	m := a.renew(&pb.Renew{Agent: true, RackCsr: csr, Join: &pb.JoinState{Next: []byte("first")}})
	if m.GetRefusal() != nil {
		t.Fatal(m.GetRefusal())
	}
	bundle := parse(t, m.GetBundle())
	renewed, err := creds.Renewed(parse(t, m.GetAgent()), bundle)
	if err != nil || !renewed.Certificate.Leaf.NotAfter.After(creds.Certificate.Leaf.NotAfter.Add(-time.Second)) {
		t.Errorf("renewed: %v", err)
	}
	if err := rack.Install(parse(t, m.GetRack()), bundle); err != nil {
		t.Error(err)
	}
	if _, good := rack.Chain(); !good {
		t.Error("the rack's CA is not signed")
	}
	if m := a.renew(&pb.Renew{RackCsr: []byte("x")}); fault.Kind(m.GetRefusal().GetKind()) != fault.BadInput || len(m.GetRack()) != 0 {
		t.Errorf("a request of garbage: %v", m)
	}
	if m := a.renew(&pb.Renew{}); len(m.GetAgent()) != 0 || len(m.GetRack()) != 0 {
		t.Errorf("nothing was asked for: %v", m)
	}
	a.fine()
}

// What was denied at an agent that was cut off is denied in the whole mesh when it
// is back, and stays so at the agent if it is not an agent's to deny. What a person
// has allowed since does not come back with an old agent.
func TestThreat38DenialsOfACutOffAgentTravelUp(t *testing.T) {
	w := newWorld(t, 0)
	a := w.join("r1")
	w.join("r2")
	spki := "spki/" + strings.Repeat("ab", 32)
	old := time.Now().Add(-time.Hour).UnixMilli()
	told := []*pb.Denial{
		{Subject: spki, AtUnixMs: old},
		{Subject: "agent/a-r1b", AtUnixMs: old},
		{Subject: "agent/a-r2", AtUnixMs: old},
		{Subject: "rack/r2", AtUnixMs: old},
		{Subject: "coordinator/c1", AtUnixMs: old},
		{Subject: "nonsense"},
	}
	ours := w.credentials(trust.Coordinator, "c1")
	for _, c := range ours.Chain() {
		subject, err := trust.ParseSubject(trust.Pin(c))
		if err != nil {
			t.Fatal(err)
		}
		told = append(told, &pb.Denial{Subject: subject, AtUnixMs: old})
	}
	pull := func() *pb.Desired { return a.tell(told) }
	check := func(d *pb.Desired, denied ...string) {
		t.Helper()
		var got []string
		for _, x := range d.GetDenied() {
			got = append(got, x.GetSubject())
		}
		if !slices.Equal(got, denied) {
			t.Errorf("denied %v, want %v", got, denied)
		}
		if !slices.Equal(d.GetSettled(), []string{spki, "agent/a-r1b"}) {
			t.Errorf("settled %v", d.GetSettled())
		}
	}
	check(pull(), "agent/a-r1b", spki)
	w.commit(&pb.Command{Body: &pb.Command_Allow{Allow: &pb.Allow{Subject: spki, By: "ada"}}})
	check(pull(), "agent/a-r1b")
}

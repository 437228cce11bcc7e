package ca_test

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
)

func authority(t *testing.T, dir string) *ca.Site {
	t.Helper()
	a, err := ca.Open(dir, "osl1")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func credentials(t *testing.T, a *ca.Site, id trust.Identity, hosts ...string) trust.Credentials {
	t.Helper()
	dir := t.TempDir()
	if err := a.Ensure(dir, id, hosts...); err != nil {
		t.Fatal(err)
	}
	creds, err := trust.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return creds
}

// handshake runs TLS between the two over a pipe and returns what each side says.
// The client reads once, because in TLS 1.3 it learns of a refusal only then.
func handshake(t *testing.T, client, server *tls.Config) (clientErr, serverErr error) {
	t.Helper()
	a, b := net.Pipe()
	done := make(chan error, 1)
	go func() {
		conn := tls.Server(b, server)
		err := conn.HandshakeContext(t.Context())
		if err == nil {
			_, err = conn.Write([]byte("x"))
		}
		_ = b.Close()
		done <- err
	}()
	conn := tls.Client(a, client)
	clientErr = conn.HandshakeContext(t.Context())
	if clientErr == nil {
		_, clientErr = conn.Read(make([]byte, 1))
	}
	_ = a.Close()
	return clientErr, <-done
}

func TestWhoMaySpeakToWhom(t *testing.T) {
	ours, foreign := authority(t, t.TempDir()), authority(t, t.TempDir())
	coordinator := credentials(t, ours, trust.Identity{Role: trust.Coordinator, Name: "c1"}, "127.0.0.1")
	agent := credentials(t, ours, trust.Identity{Role: trust.Agent, Name: "r01"})
	operator := credentials(t, ours, trust.Identity{Role: trust.Operator, Name: "ada"})
	stranger := credentials(t, foreign, trust.Identity{Role: trust.Agent, Name: "r01"})
	posing := credentials(t, foreign, trust.Identity{Role: trust.Coordinator, Name: "c1"}, "127.0.0.1")

	tests := map[string]struct {
		client, server *tls.Config
		want           bool
	}{
		"an agent reaches a coordinator":                     {agent.Client(), coordinator.Server(trust.Agent), true},
		"an operator is no agent":                            {operator.Client(), coordinator.Server(trust.Agent), false},
		"an agent is no operator":                            {agent.Client(), coordinator.Server(trust.Operator), false},
		"an agent of a foreign authority is refused":         {stranger.Client(), coordinator.Server(trust.Agent), false},
		"a coordinator of a foreign authority is refused":    {agent.Client(), posing.Server(trust.Agent), false},
		"an agent can't pose as a coordinator to an agent":   {agent.Client(), agent.Server(trust.Agent), false},
		"a client without a certificate is refused":          {&tls.Config{RootCAs: coordinator.Roots, ServerName: "127.0.0.1"}, coordinator.Server(trust.Agent), false},
		"a plain TLS client can verify the coordinator's IP": {&tls.Config{RootCAs: coordinator.Roots, ServerName: "127.0.0.1", Certificates: []tls.Certificate{operator.Certificate}}, coordinator.Server(trust.Operator), true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			clientErr, serverErr := handshake(t, test.client, test.server)
			if ok := clientErr == nil && serverErr == nil; ok != test.want {
				t.Errorf("client: %v, server: %v; want success %v", clientErr, serverErr, test.want)
			}
		})
	}
}

func TestAuthorityIsKept(t *testing.T) {
	dir, leaf := t.TempDir(), t.TempDir()
	id := trust.Identity{Role: trust.Agent, Name: "r01"}
	if err := authority(t, dir).Ensure(leaf, id); err != nil {
		t.Fatal(err)
	}
	before := read(t, leaf, trust.CertFile)
	if err := authority(t, dir).Ensure(leaf, id); err != nil {
		t.Fatal(err)
	}
	if read(t, leaf, trust.CertFile) != before {
		t.Error("a good certificate was issued again")
	}
	if err := authority(t, dir).Ensure(leaf, trust.Identity{Role: trust.Agent, Domain: trust.Domain{Rack: "r02"}, Name: "r02"}); err != nil {
		t.Fatal(err)
	}
	if read(t, leaf, trust.CertFile) == before {
		t.Error("a certificate for another identity was kept")
	}
}

func TestAnotherAuthoritysLeafIsReplaced(t *testing.T) {
	leaf := t.TempDir()
	id := trust.Identity{Role: trust.Agent, Name: "r01"}
	if err := authority(t, t.TempDir()).Ensure(leaf, id); err != nil {
		t.Fatal(err)
	}
	before := read(t, leaf, trust.CertFile)
	if err := authority(t, t.TempDir()).Ensure(leaf, id); err != nil {
		t.Fatal(err)
	}
	if read(t, leaf, trust.CertFile) == before {
		t.Error("a leaf of a foreign authority was taken for ours")
	}
}

func TestKeysAreForTheirOwnerAlone(t *testing.T) {
	dir, leaf := t.TempDir(), t.TempDir()
	if err := authority(t, dir).Ensure(leaf, trust.Identity{Role: trust.Operator, Name: "ada"}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "root", "1", "key.pem"), filepath.Join(dir, "site", "key.pem"), filepath.Join(leaf, trust.KeyFile)} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", filepath.Base(path), info.Mode().Perm())
		}
	}
}

func TestNamesThatAreNoNames(t *testing.T) {
	a := authority(t, t.TempDir())
	for _, name := range []string{"", "a/b", "a b", "é", string(make([]byte, 64))} {
		err := a.Ensure(t.TempDir(), trust.Identity{Role: trust.Agent, Name: name})
		if !fault.Is(err, fault.BadInput) {
			t.Errorf("name %q: %v, want bad input", name, err)
		}
	}
}

// A certificate chain that names another trust domain fails even if our own key
// signed it: the root is constrained to this mesh.
func TestIdentityOfRefusesForeignNames(t *testing.T) {
	leaf := credentials(t, authority(t, t.TempDir()), trust.Identity{Role: trust.Agent, Name: "r01"}).Certificate.Leaf
	if _, err := trust.IdentityOf(leaf); err != nil {
		t.Fatal(err)
	}
	for _, uri := range []string{
		"https://r1.osl1.chiba.internal/agent/r01", "spiffe://r1.osl1.chiba.internal.evil.example/agent/r01",
		"spiffe://chiba/agent/r01", "spiffe://a.r1.osl1.chiba.internal/agent/r01", "spiffe://R1.osl1.chiba.internal/agent/r01",
		"spiffe://r1.osl1.chiba.internal/root/r01", "spiffe://r1.osl1.chiba.internal/agent", "spiffe://osl1.chiba.internal/agent/r01",
		"spiffe://r1.osl1.chiba.internal/coordinator/c1", "spiffe://r1.osl1.chiba.internal/agent/r01?x", "spiffe://u@r1.osl1.chiba.internal/agent/r01",
		"spiffe://r1.osl1.chiba.internal:1/agent/r01", "spiffe://r1.osl1.chiba.internal/agent/a/b", "spiffe://r1.osl1.chiba.internal//agent/r01",
	} {
		changed := *leaf
		parsed := *leaf.URIs[0]
		if err := parsed.UnmarshalBinary([]byte(uri)); err != nil {
			t.Fatal(err)
		}
		changed.URIs = append(changed.URIs[:0:0], &parsed)
		if id, err := trust.IdentityOf(&changed); err == nil {
			t.Errorf("%s was taken for %s", uri, id)
		}
	}
	if _, err := trust.IdentityOf(&x509.Certificate{}); err == nil {
		t.Error("a certificate without a name has an identity")
	}
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

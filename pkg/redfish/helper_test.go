package redfish_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/bmctest"
)

const ours = "chiba:r01:agent-1"

// memory is what an agent keeps on its disk, in memory.
type memory struct {
	mu         sync.Mutex
	candidates []redfish.Credentials
	proven     []redfish.Credentials
	uri        string
	open       bool
	saves      []string
	failSave   error
}

func login(user, password string) redfish.Credentials {
	return redfish.Credentials{User: user, Password: fleet.NewSecret(password)}
}

func rootLogin() *memory {
	return &memory{candidates: []redfish.Credentials{login("root", bmcsim.DefaultPassword)}}
}

func (m *memory) Candidates(string) ([]redfish.Credentials, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.candidates, nil
}

func (m *memory) Prove(_ string, c redfish.Credentials) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.proven = append(m.proven, c)
	return nil
}

func (m *memory) Save(_, uri string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.saves = append(m.saves, uri)
	m.uri, m.open = uri, true
	return m.failSave
}

func (m *memory) Load(string) (string, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.uri, m.open, nil
}

func (m *memory) Forget(string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.uri, m.open = "", false
	return nil
}

// connect makes a client of b that is closed with the test.
func connect(tb testing.TB, b *bmcsim.BMC, base string, m *memory, change func(*redfish.Config)) *redfish.Client {
	tb.Helper()
	cfg := redfish.Config{
		BMC: "b1", Address: strings.TrimPrefix(base, "https://"), Pin: b.Pin(), Logins: m, Sessions: m, Context: ours,
		Limits: redfish.Limits{Read: 5 * time.Second, Write: 5 * time.Second},
	}
	if change != nil {
		change(&cfg)
	}
	c, err := redfish.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), 2*time.Second)
		defer cancel()
		_ = c.Close(ctx)
	})
	return c
}

func start(tb testing.TB, cfg bmcsim.Config) (b *bmcsim.BMC, base string, m *memory, c *redfish.Client) {
	tb.Helper()
	b, base = bmctest.Start(tb, cfg)
	m = rootLogin()
	return b, base, m, connect(tb, b, base, m, nil)
}

// hostile serves a root and a login in earnest and leaves everything else to
// handle, over HTTP/1.1 unless h2 is set.
func hostile(tb testing.TB, h2 bool, handle http.HandlerFunc) *redfish.Client {
	tb.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /redfish/v1/{$}", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"Systems":{"@odata.id":"/redfish/v1/Systems"},"Links":{"Sessions":{"@odata.id":"/redfish/v1/Sessions"}}}`))
	})
	mux.HandleFunc("POST /redfish/v1/Sessions", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Auth-Token", "the-token-of-ours")
		w.Header().Set("Location", "/redfish/v1/Sessions/1")
		w.WriteHeader(http.StatusCreated)
	})
	mux.HandleFunc("DELETE /redfish/v1/Sessions/1", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/", handle)
	s := httptest.NewUnstartedServer(mux)
	s.EnableHTTP2 = h2
	s.StartTLS()
	tb.Cleanup(s.Close)
	return dial(tb, s.Listener.Addr().String(), redfish.PinOf(s.Certificate()))
}

// serveTLS serves h over HTTP/1.1 until the test ends.
func serveTLS(tb testing.TB, h http.Handler) (address, pin string) {
	tb.Helper()
	s := httptest.NewUnstartedServer(h)
	s.StartTLS()
	tb.Cleanup(s.Close)
	return s.Listener.Addr().String(), redfish.PinOf(s.Certificate())
}

func dial(tb testing.TB, address, pin string) *redfish.Client {
	tb.Helper()
	return dialWith(tb, address, pin, rootLogin())
}

func dialWith(tb testing.TB, address, pin string, m *memory) *redfish.Client {
	tb.Helper()
	return dialChanged(tb, address, pin, m, nil)
}

func dialChanged(tb testing.TB, address, pin string, m *memory, change func(*redfish.Config)) *redfish.Client {
	tb.Helper()
	cfg := redfish.Config{
		BMC: "b1", Address: address, Pin: pin, Logins: m, Sessions: m, Context: ours,
		Limits: redfish.Limits{Read: time.Second, Write: time.Second, Body: 1 << 20},
	}
	if change != nil {
		change(&cfg)
	}
	c, err := redfish.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), time.Second)
		defer cancel()
		_ = c.Close(ctx)
	})
	return c
}

// certificate is a fresh self-signed one, as BMCs make them.
func certificate(tb testing.TB) tls.Certificate {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"testhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func mustParse(tb testing.TB, c tls.Certificate) *x509.Certificate {
	tb.Helper()
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		tb.Fatal(err)
	}
	return leaf
}

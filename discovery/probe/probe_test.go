package probe

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ask(t *testing.T, address string) (discovery.Answer, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	return Ask(ctx, address)
}

// A simulated BMC is asked once: one handshake, one request, no login.
func TestBMC(t *testing.T) {
	b, err := bmcsim.New(bmcsim.Config{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Serve(ctx, l) }()
	a, err := ask(t, l.Addr().String())
	if err != nil || a.Pin != b.Pin() || len(a.UUID) != 36 || a.Version == "" || a.Problem != "" {
		t.Errorf("%+v, %v", a, err)
	}
	if s := b.Stats(); s.Total() != 1 {
		t.Errorf("it took %+v", s)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Whatever answers, the key is told; what is no service root is a problem.
func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		want   discovery.Root
	}{
		"a service root": {
			200, `{"@odata.type":"#ServiceRoot.v1_15_0.ServiceRoot","UUID":"AA","Vendor":"Acme","Product":"X1","RedfishVersion":"1.17.0"}`,
			discovery.Root{UUID: "aa", Vendor: "Acme", Product: "X1", Version: "1.17.0"},
		},
		"OpenBMC":        {200, `{"RedfishVersion":"1.17.0","Links":{"ManagerProvidingService":{"@odata.id":"/redfish/v1/Managers/bmc"}}}`, discovery.Root{Version: "1.17.0", Make: "OpenBMC"}},
		"odd links":      {200, `{"RedfishVersion":"1.17.0","Links":7}`, discovery.Root{Version: "1.17.0"}},
		"wrong types":    {200, `{"RedfishVersion":"1.6.0","Vendor":7,"UUID":["x"]}`, discovery.Root{Version: "1.6.0"}},
		"driving a tty":  {200, `{"RedfishVersion":"1.6.0","Vendor":"\u001b[2J` + strings.Repeat("v", 999) + `"}`, discovery.Root{Version: "1.6.0", Vendor: "[2J" + strings.Repeat("v", 61)}},
		"another JSON":   {200, `{"name":"printer"}`, discovery.Root{Problem: "no service root: it answered with something else"}},
		"a page":         {200, `<html>`, discovery.Root{Problem: "no service root: it answered with no JSON object"}},
		"a login wanted": {401, ``, discovery.Root{Problem: "no service root: it answered with HTTP 401"}},
		"a redirect":     {302, ``, discovery.Root{Problem: "no service root: it answered with HTTP 302"}},
		"endless":        {200, `{"RedfishVersion":"` + strings.Repeat("1", 2*maxBody), discovery.Root{Problem: "no service root: it answered with no JSON object"}},
	} {
		t.Run(name, func(t *testing.T) {
			requests := 0
			s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests++
				for _, h := range []string{"Authorization", "X-Auth-Token", "Cookie"} {
					if r.Header.Get(h) != "" {
						t.Errorf("it was sent %s", h)
					}
				}
				if r.Method != http.MethodGet || r.URL.Path != "/redfish/v1/" || r.ContentLength != 0 {
					t.Errorf("it was asked %s %s", r.Method, r.URL)
				}
				w.Header().Set("Location", "https://127.0.0.1:1/")
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body))
			}))
			defer s.Close()
			a, err := ask(t, s.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(discovery.Answer{Pin: redfish.PinOf(s.Certificate()), Root: c.want}, a); diff != "" || requests != 1 {
				t.Errorf("%d requests: %s", requests, diff)
			}
		})
	}
}

// Who does not speak TLS, or says nothing, is an error that says so.
func TestNobody(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	closed := httptest.NewServer(nil)
	closed.Close()
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	for address, want := range map[string]string{
		plain.Listener.Addr().String():  "HTTP response to HTTPS client",
		closed.Listener.Addr().String(): "connection refused",
		mute.Addr().String():            "no answer in time",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		_, err := Ask(ctx, address)
		cancel()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"@odata.type":"#ServiceRoot","UUID":"AA","Vendor":"Acme"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		root, err := decode(body)
		for _, text := range []string{root.UUID, root.Vendor, root.Product, root.Version} {
			if err != nil && text != "" || len([]rune(text)) > maxTexts+1 || strings.ContainsAny(text, "\x00\x1b\n\x7f") {
				t.Errorf("%q, %v", text, err)
			}
		}
	})
}

// A handshake can go on for a moment after the one who asked has given up.
func TestGivingUpAmidAHandshake(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	address := server.Listener.Addr().String()
	begun := time.Now()
	if _, err := ask(t, address); err != nil {
		t.Fatal(err)
	}
	whole := time.Since(begun)
	const tries = 200
	for i := range tries {
		ctx, cancel := context.WithTimeout(t.Context(), whole*time.Duration(i)/tries*2)
		if a, err := Ask(ctx, address); (err == nil) != (a.Pin != "") {
			t.Errorf("%+v, %v", a, err)
		}
		cancel()
	}
}

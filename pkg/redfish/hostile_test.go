package redfish_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/scan"
)

// hostileLogin leaves the login to handle and answers everything else with {}.
func hostileLogin(tb testing.TB, handle func(w http.ResponseWriter, body string)) *redfish.Client {
	tb.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/redfish/v1/":
			_, _ = w.Write([]byte(`{"Systems":{"@odata.id":"/redfish/v1/Systems"}}`))
		case r.Method == http.MethodPost:
			body, _ := io.ReadAll(r.Body)
			handle(w, string(body))
		case r.Method == http.MethodDelete && r.URL.Path != "/redfish/v1/SessionService/Sessions/1":
			tb.Errorf("DELETE %s", r.URL.Path)
		case r.URL.Path == "/denied":
			w.WriteHeader(http.StatusUnauthorized)
		default:
			_, _ = w.Write([]byte(`{}`))
		}
	}))
	tb.Cleanup(s.Close)
	m := rootLogin()
	c, err := redfish.New(redfish.Config{
		BMC: "b1", Address: s.Listener.Addr().String(), Pin: redfish.PinOf(s.Certificate()), Logins: m, Sessions: m, Context: ours,
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close(context.WithoutCancel(tb.Context())) })
	return c
}

func TestThreat35HostileAnswers(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(bytes.Repeat([]byte(" "), 2<<20))
	_ = z.Close()
	tests := []struct {
		name   string
		answer http.HandlerFunc
		want   fault.Kind
	}{
		{"not JSON", write("<html>"), fault.Garbage},
		{"half of JSON", write(`{"a":`), fault.Garbage},
		{"empty", write(""), fault.Garbage},
		{"two values", write(`{}{}`), fault.Garbage},
		{"nested too deep", write(strings.Repeat("[", 5000) + strings.Repeat("]", 5000)), fault.TooLarge},
		{"announced too large", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "104857600")
			_, _ = w.Write([]byte("{"))
		}, fault.TooLarge},
		{"endless", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(bytes.Repeat([]byte(" "), 64<<10)); err != nil {
					return
				}
			}
		}, fault.TooLarge},
		{"gzip bomb", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(bomb.Bytes())
		}, fault.Garbage},
		{"large headers", func(w http.ResponseWriter, _ *http.Request) {
			for i := range 100 {
				w.Header().Set(fmt.Sprintf("X-Filler-%d", i), strings.Repeat("x", 4<<10))
			}
			_, _ = w.Write([]byte("{}"))
		}, fault.TooLarge},
		{"hung", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, fault.Timeout},
		{"one byte at a time", func(w http.ResponseWriter, r *http.Request) {
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte(" "))
				_ = http.NewResponseController(w).Flush()
				<-tick.C
			}
		}, fault.Timeout},
		{"500", status(500, ""), fault.Unavailable},
		{"teapot", status(418, ""), fault.BadInput},
		{"no status of HTTP", status(600, ""), fault.Unavailable},
		{"a message of its own", status(400, `{"error":{"code":"Base.1.19.ResourceMissingAtURI","message":"gone"}}`), fault.NotFound},
		{"messages of the wrong type", status(403, `{"error":{"@Message.ExtendedInfo":"no list"}}`), fault.Denied},
		{"405", status(405, ""), fault.Unsupported},
		{"409", status(409, ""), fault.Conflict},
	}
	for _, h2 := range []bool{false, true} {
		for _, test := range tests {
			t.Run(fmt.Sprintf("%s/h2=%v", test.name, h2), func(t *testing.T) {
				c := hostile(t, h2, test.answer)
				if h2 && test.name == "large headers" {
					test.want = fault.Unavailable // HTTP/2 has one error for many causes
				}
				for how, read := range map[string]func() error{
					"fetched": func() error { _, err := c.Fetch(t.Context(), "/redfish/v1/Systems"); return err },
					"walked": func() error {
						return c.Walk(t.Context(), "/redfish/v1/Systems", func(s *scan.Scanner) {
							for range s.Members {
								s.Raw()
							}
						})
					},
				} {
					begun := time.Now()
					err := read()
					if !fault.Is(err, test.want) {
						t.Errorf("%s: got %v (%s), want %s", how, err, fault.KindOf(err), test.want)
					}
					if err != nil && (len(err.Error()) > 1000 || strings.Contains(err.Error(), "127.0.0.1")) {
						t.Errorf("%s: the error is not for a person: %v", how, err)
					}
					if took := time.Since(begun); took > 2500*time.Millisecond {
						t.Errorf("%s: it took %s with a deadline of 1s", how, took)
					}
				}
			})
		}
	}
}

func write(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }
}

func status(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = w.Write([]byte(body))
	}
}

func TestDroppedConnection(t *testing.T) {
	var asked atomic.Int32
	c := hostile(t, false, func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) > 1 {
			_, _ = w.Write([]byte(`{"ok":true}`))
			return
		}
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte("{"))
		panic(http.ErrAbortHandler)
	})
	if _, err := c.Fetch(t.Context(), "/x"); err != nil || asked.Load() != 2 {
		t.Errorf("a read over a dropped connection: %v after %d tries; want success at the second", err, asked.Load())
	}
	asked.Store(0)
	_, err := c.Patch(t.Context(), "/x", map[string]int{"a": 1})
	if !fault.Is(err, fault.Unavailable) || !redfish.Uncertain(err) || asked.Load() != 1 {
		t.Errorf("a write over a dropped connection: %v after %d tries; want uncertain after one", err, asked.Load())
	}
}

func TestRefusedConnectionIsCertain(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	cert, err := x509.ParseCertificate(certificate(t).Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	_, err = dial(t, address, redfish.PinOf(cert)).Post(t.Context(), "/x", nil)
	if !fault.Is(err, fault.Unavailable) || redfish.Uncertain(err) {
		t.Errorf("got %v, uncertain %v; want unavailable and certain", err, redfish.Uncertain(err))
	}
}

func TestThreat35RedirectsStayHome(t *testing.T) {
	var leaked atomic.Bool
	other := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { leaked.Store(true) }))
	defer other.Close()
	c := hostile(t, false, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, other.URL+"/take", http.StatusTemporaryRedirect)
		case "/home":
			http.Redirect(w, r, "/there", http.StatusPermanentRedirect)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		default:
			_, _ = w.Write([]byte("{}"))
		}
	})
	if _, err := c.Fetch(t.Context(), "/home"); err != nil {
		t.Errorf("a redirect on the same BMC: %v", err)
	}
	for _, uri := range []string{"/away", "/loop"} {
		if _, err := c.Fetch(t.Context(), uri); !fault.Is(err, fault.Garbage) {
			t.Errorf("%s: %v; want garbage", uri, err)
		}
	}
	if _, err := c.Post(t.Context(), "/home", nil); !fault.Is(err, fault.Garbage) {
		t.Errorf("a redirected write: %v; want garbage", err)
	}
	if leaked.Load() {
		t.Error("a redirect led to another host")
	}
}

func TestThreat35PathsStayOnTheBMC(t *testing.T) {
	c := hostile(t, false, write("{}"))
	for _, uri := range []string{"", "x", "//elsewhere.example/x", "https://elsewhere.example/", "@elsewhere.example/", "/a b\n"} {
		if _, err := c.Fetch(t.Context(), uri); !fault.Is(err, fault.Garbage) {
			t.Errorf("%q: %v; want garbage", uri, err)
		}
	}
}

func TestThreat06ChangedCertificate(t *testing.T) {
	var asked atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{certificate(t)}}
	s.StartTLS()
	defer s.Close()
	expected, err := x509.ParseCertificate(certificate(t).Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	_, err = dial(t, s.Listener.Addr().String(), redfish.PinOf(expected)).Fetch(t.Context(), "/x")
	if !fault.Is(err, fault.Untrusted) || !strings.Contains(fault.HintOf(err), "pin") {
		t.Errorf("got %v with hint %q; want untrusted and what to do", err, fault.HintOf(err))
	}
	if asked.Load() != 0 {
		t.Error("something was sent to a server that is not the BMC")
	}
	pin, err := redfish.Fingerprint(t.Context(), s.Listener.Addr().String())
	if err != nil || pin != redfish.PinOf(s.Certificate()) {
		t.Errorf("fingerprint %q, %v", pin, err)
	}
}

// The key changes while a session is open: the next connection gets neither the
// token nor a password, and what was read before stands alone.
func TestThreat06KeyChangesInMidSession(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		first, second := certificate(t), certificate(t)
		var swapped atomic.Bool
		var leaked atomic.Int32
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case swapped.Load():
				leaked.Add(1)
			case r.Method == http.MethodPost:
				w.Header().Set("X-Auth-Token", "the-token-of-ours")
				w.WriteHeader(http.StatusCreated)
			default:
				_, _ = w.Write([]byte(`{"Systems":{"@odata.id":"/redfish/v1/Systems"}}`))
			}
		}))
		s.EnableHTTP2 = h2
		s.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{first}}
		s.TLS.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			now := s.TLS.Clone()
			if swapped.Load() {
				now.Certificates = []tls.Certificate{second}
			}
			return now, nil
		}
		s.StartTLS()
		t.Cleanup(s.Close)
		expected, err := x509.ParseCertificate(first.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		c := dial(t, s.Listener.Addr().String(), redfish.PinOf(expected))
		if _, err := c.Fetch(t.Context(), "/x"); err != nil {
			t.Fatal(err)
		}
		swapped.Store(true)
		s.CloseClientConnections()
		for range 3 {
			if _, err := c.Fetch(t.Context(), "/x"); !fault.Is(err, fault.Untrusted) {
				t.Errorf("h2=%v: got %v; want untrusted", h2, err)
			}
		}
		if leaked.Load() != 0 {
			t.Errorf("h2=%v: %d requests reached the other key", h2, leaked.Load())
		}
	}
}

func TestRootsVerifyTheName(t *testing.T) {
	s := httptest.NewTLSServer(write(`{"Systems":{"@odata.id":"/redfish/v1/Systems"}}`))
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	for name, want := range map[string]fault.Kind{"example.com": "", "127.0.0.1": "", "other.example": fault.Untrusted} {
		c, err := redfish.New(redfish.Config{
			BMC: "b1", Address: s.Listener.Addr().String(), Roots: roots, ServerName: name, Logins: rootLogin(),
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err = c.Root(t.Context()); fault.KindOf(err) != want {
			t.Errorf("%s: %v; want %q", name, err, want)
		}
		_ = c.Close(t.Context())
	}
	if _, err := redfish.New(redfish.Config{Address: "h", Logins: rootLogin()}); !fault.Is(err, fault.BadInput) {
		t.Errorf("neither pin nor roots: %v; want bad input", err)
	}
	if _, err := redfish.New(redfish.Config{Address: "h", Pin: "sha256/abc", Logins: rootLogin()}); !fault.Is(err, fault.BadInput) {
		t.Errorf("a broken pin: %v; want bad input", err)
	}
}

func TestBusyBMC(t *testing.T) {
	tests := []struct {
		after string
		want  fault.Kind // of a BMC that is free at the second request
	}{
		{"0", ""},
		{"Thu, 01 Jan 1970 00:00:10 GMT", ""}, // its clock stands at 1970
		{"86400", fault.Unavailable},          // longer than the deadline: told at once
		{"soon", ""},
	}
	for _, test := range tests {
		var asked atomic.Int32
		c := hostileSlow(t, func(w http.ResponseWriter, _ *http.Request) {
			if asked.Add(1) == 1 {
				w.Header().Set("Retry-After", test.after)
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			_, _ = w.Write([]byte("{}"))
		})
		_, err := c.Fetch(t.Context(), "/x")
		if fault.KindOf(err) != test.want {
			t.Errorf("Retry-After %s: %v", test.after, err)
		}
		asked.Store(0)
		_, err = c.Post(t.Context(), "/x", nil)
		var answered *redfish.StatusError
		if !errors.As(err, &answered) || answered.RetryAfter < time.Second || answered.RetryAfter > time.Hour || asked.Load() != 1 {
			t.Errorf("Retry-After %s, a write: %v after %d tries", test.after, err, asked.Load())
		}
	}
}

// hostileSlow is hostile with time enough for one Retry-After of a second.
func hostileSlow(tb testing.TB, handle http.HandlerFunc) *redfish.Client {
	tb.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/x":
			handle(w, r)
		case r.Method == http.MethodPost:
			w.Header().Set("X-Auth-Token", "t")
		default:
			_, _ = w.Write([]byte(`{"Systems":{"@odata.id":"/redfish/v1/Systems"}}`))
		}
	}))
	tb.Cleanup(s.Close)
	m := rootLogin()
	c, err := redfish.New(redfish.Config{
		BMC: "b1", Address: s.Listener.Addr().String(), Pin: redfish.PinOf(s.Certificate()), Logins: m, Sessions: m,
		Limits: redfish.Limits{Read: 3 * time.Second},
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close(context.WithoutCancel(tb.Context())) })
	return c
}

// A BMC may repeat what it was sent: the password, the new password, the token.
func TestErrorsRepeatNoSecret(t *testing.T) {
	const password = "new-Secret-1"
	c := hostile(t, false, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusBadRequest)
		text := strings.ReplaceAll(string(body)+" "+r.Header.Get("X-Auth-Token")+" 0penBmc", `"`, `\"`)
		fmt.Fprintf(w, `{"error":{"@Message.ExtendedInfo":[{"MessageId":"Base.1.0.%s","Message":"%s"}]}}`, password, text)
	})
	_, err := c.Patch(t.Context(), "/x", redfish.Confidential{
		Body: map[string]string{"Password": password}, Secrets: []fleet.Secret{fleet.NewSecret(password)},
	})
	var answered *redfish.StatusError
	if !errors.As(err, &answered) {
		t.Fatalf("got %v", err)
	}
	shown := fmt.Sprintf("%v %+v %q", err, *answered, answered.Messages)
	for _, secret := range []string{password, "the-token-of-ours", "0penBmc"} {
		if strings.Contains(shown, secret) {
			t.Errorf("the error shows a secret: %s", shown)
		}
	}
	if !strings.Contains(err.Error(), fleet.Redacted) {
		t.Errorf("nothing was redacted in %v", err)
	}
}

func TestSuccessMayCarryAnErrorObject(t *testing.T) {
	c := hostile(t, false, write(`{"error":{"code":"Base.1.19.PropertyValueModified"}}`))
	if _, err := c.Patch(t.Context(), "/x", map[string]int{"SessionTimeout": 1800}); err != nil {
		t.Error(err)
	}
}

// A write whose answer claims to be JSON and is not: nobody knows what was done.
func TestWriteAnsweredWithGarbageIsUncertain(t *testing.T) {
	b, base, m, _ := start(t, bmcsim.Config{})
	c := connect(t, b, base, m, nil)
	read(t, c)
	if err := b.Fault(bmcsim.Fault{Kind: bmcsim.Garbage}); err != nil {
		t.Fatal(err)
	}
	_, err := c.Patch(t.Context(), systemURI, map[string]any{"AssetTag": "x"})
	if !redfish.Uncertain(err) || !fault.Is(err, fault.Garbage) {
		t.Errorf("got %v", err)
	}
}

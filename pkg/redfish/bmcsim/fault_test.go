package bmcsim_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/bmctest"
)

func inject(t *testing.T, b *bmcsim.BMC, f bmcsim.Fault) {
	t.Helper()
	if err := b.Fault(f); err != nil {
		t.Fatal(err)
	}
}

// protocols are those over which a fault must hurt alike.
func protocols() []string { return []string{"h2", "http/1.1"} }

// startOver is a BMC with a session, and a client that speaks one protocol.
func startOver(t *testing.T, protocol string) (*bmcsim.BMC, *caller) {
	t.Helper()
	b, c := start(t, bmcsim.Config{})
	if protocol == "http/1.1" {
		transport, _ := c.client.Transport.(*http.Transport)
		transport.ForceAttemptHTTP2 = false
		transport.TLSClientConfig.NextProtos = []string{protocol}
	}
	c.login("root", bmcsim.DefaultPassword)
	return b, c
}

func TestHangTakesTheRequestAndNeverAnswers(t *testing.T) {
	for _, protocol := range protocols() {
		b, c := startOver(t, protocol)
		inject(t, b, bmcsim.Fault{Kind: bmcsim.Hang})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+system, nil)
		if err != nil {
			t.Fatal(err)
		}
		if res, err := c.client.Do(req); err == nil {
			res.Body.Close()
			t.Fatalf("it answered %d", res.StatusCode)
		} else if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want the deadline's", err)
		}
		cancel()
		inject(t, b, bmcsim.Fault{Kind: bmcsim.NoFault})
		c.want(c.get(system), http.StatusOK)
	}
}

// A BMC that is stopped amid a hang must end all the same: goleak would tell.
func TestAHangEndsWithTheServer(t *testing.T) {
	b, err := bmcsim.New(bmcsim.Config{})
	if err != nil {
		t.Fatal(err)
	}
	inject(t, b, bmcsim.Fault{Kind: bmcsim.Hang})
	failed := make(chan error, 1)
	t.Run("serve", func(t *testing.T) {
		url := bmctest.Serve(t, b)
		client := bmctest.Client(t, b)
		req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodGet, url+"/redfish", nil)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			res, err := client.Do(req)
			if err == nil {
				res.Body.Close()
			}
			failed <- err
		}()
		for b.Stats().Handshakes == 0 {
			<-time.After(time.Millisecond)
		}
	})
	if err := <-failed; err == nil {
		t.Error("the request succeeded")
	}
}

func TestDropCutsTheAnswer(t *testing.T) {
	for _, protocol := range protocols() {
		b, c := startOver(t, protocol)
		inject(t, b, bmcsim.Fault{Kind: bmcsim.Drop})
		a, err := c.try(http.MethodGet, system, "")
		if err == nil {
			t.Errorf("a whole answer came: %d %q", a.status, a.text)
		}
		inject(t, b, bmcsim.Fault{Kind: bmcsim.NoFault})
		c.want(c.get(system), http.StatusOK)
	}
}

func TestGarbageIsNoJSON(t *testing.T) {
	b, c := start(t, bmcsim.Config{})
	inject(t, b, bmcsim.Fault{Kind: bmcsim.Garbage})
	a := c.want(c.get("/redfish/v1"), http.StatusOK)
	if a.body != nil || a.text == "" {
		t.Errorf("body %q is JSON", a.text)
	}
}

func TestHugeGoesOnAndOn(t *testing.T) {
	b, c := start(t, bmcsim.Config{})
	inject(t, b, bmcsim.Fault{Kind: bmcsim.Huge})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.base+"/redfish/v1", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if n, err := io.Copy(io.Discard, io.LimitReader(res.Body, 20<<20)); n != 20<<20 || err != nil {
		t.Errorf("it ended after %d bytes: %v", n, err)
	}
}

func TestErrorsThatAnswer(t *testing.T) {
	b, c := start(t, bmcsim.Config{})
	c.login("root", bmcsim.DefaultPassword)

	inject(t, b, bmcsim.Fault{Kind: bmcsim.Broken})
	a := c.want(c.get(system), http.StatusInternalServerError)
	if a.messageID() != "Base.1.19.InternalError" {
		t.Errorf("500 with %s", a.messageID())
	}

	inject(t, b, bmcsim.Fault{Kind: bmcsim.Busy, Delay: 7 * time.Second})
	a = c.want(c.get(system), http.StatusServiceUnavailable)
	if a.header.Get("Retry-After") != "7" || a.messageID() != "Base.1.19.ServiceTemporarilyUnavailable" {
		t.Errorf("503 with Retry-After %q and %s", a.header.Get("Retry-After"), a.messageID())
	}

	// Logins work, and are worth nothing.
	inject(t, b, bmcsim.Fault{Kind: bmcsim.Denies})
	c.want(c.get(system), http.StatusUnauthorized)
	c.want(c.login("root", bmcsim.DefaultPassword), http.StatusCreated)
	c.want(c.get(system), http.StatusUnauthorized)
	inject(t, b, bmcsim.Fault{Kind: bmcsim.NoFault})
	c.want(c.get(system), http.StatusOK)

	// A lost session is gone, a new one is good.
	if err := b.ForgetSessions(); err != nil {
		t.Fatal(err)
	}
	c.want(c.get(system), http.StatusUnauthorized)
	c.login("root", bmcsim.DefaultPassword)
	c.want(c.get(system), http.StatusOK)
}

func TestSlowAndAFaultThatPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBMC(t, bmcsim.Config{Latency: 50 * time.Millisecond})
		inject(t, b, bmcsim.Fault{Kind: bmcsim.Slow, Delay: 3 * time.Second, For: 10 * time.Second})
		took := func() time.Duration {
			began := time.Now()
			direct(t, b, "", http.MethodGet, "/redfish", "")
			return time.Since(began)
		}
		if d := took(); d != 3050*time.Millisecond {
			t.Errorf("a slow answer took %v, want 3.05s", d)
		}
		<-time.After(10 * time.Second)
		if d := took(); d != 50*time.Millisecond {
			t.Errorf("after the fault an answer took %v, want 50ms", d)
		}
		if k := b.CurrentFault().Kind; k != bmcsim.NoFault {
			t.Errorf("the fault is %s, want none", k)
		}
	})
}

func TestUnknownFaultsAreRefused(t *testing.T) {
	b := newBMC(t, bmcsim.Config{})
	for _, f := range []bmcsim.Fault{{Kind: "meteor"}, {Kind: ""}, {Kind: bmcsim.Slow, Delay: -1}, {Kind: bmcsim.Hang, For: -1}} {
		if err := b.Fault(f); !fault.Is(err, fault.BadInput) {
			t.Errorf("%+v: %v", f, err)
		}
	}
	if k := b.CurrentFault().Kind; k != bmcsim.NoFault {
		t.Errorf("the fault is %s, want none", k)
	}
}

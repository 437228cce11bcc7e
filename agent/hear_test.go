package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/events"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const fanRule = `(monitor "n1" (trigger "fan" (cooldown 0s) (condition (event "*.FanFailed")) (action (log "a fan"))))`

func fan(n int) events.Event {
	return events.Event{MessageID: "X.1.FanFailed", Text: fmt.Sprintf("fan %d", n), Time: fmt.Sprintf("2026-01-01T00:00:%02dZ", n)}
}

// pushes has the BMC of a node tell events by its stream.
func (w *world) pushes(name fleet.NodeName, all ...events.Event) {
	w.t.Helper()
	l := w.lanes[name]
	l.mu.Lock()
	deliver := l.deliver
	l.logged = append(l.logged, all...)
	l.mu.Unlock()
	if deliver == nil {
		w.t.Fatalf("nobody listens to %s", name)
	}
	deliver(events.Notice{Way: events.ByStream, Events: all})
	synctest.Wait()
}

const aFan = `fan on n1, cut off, n1: (log "a fan") confirmed`

// A BMC is listened to as long as a rule watches it, by one listener.
func TestListenedToWhileARuleWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ended := 0
		w.lanes["n1"].hear = func(ctx context.Context, _ func(events.Notice)) error {
			<-ctx.Done()
			ended++
			return ctx.Err()
		}
		w.start(w.dir)
		defer w.stop()
		listeners := func() string { return fmt.Sprint(w.lanes["n1"].listeners, w.lanes["n2"].listeners, ended) }
		if got := listeners(); got != "0 0 0" {
			t.Errorf("without a rule: %s", got)
		}
		w.apply(hotRule)
		pass(time.Minute)
		w.agent.retarget() // no news
		pass(time.Minute)
		if got := listeners(); got != "1 0 0" || w.lanes["n1"].logReads != 0 {
			t.Errorf("with a rule over values: %s, the log was read %d times", got, w.lanes["n1"].logReads)
		}
		w.desire(&pb.Desired{Revision: 2})
		pass(time.Second)
		if got := listeners(); got != "1 0 1" {
			t.Errorf("without it again: %s", got)
		}
	})
}

// What a BMC tells has the values read at once; the rule does not wait for its
// period.
func TestPushIsFasterThanThePeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.temp("n1", 50)
		w.start(w.dir)
		defer w.stop()
		w.apply(`(monitor "n1" (trigger "hot" (every 1h) (condition (> cpu.temp 90)) (action (log "hot"))))`)
		pass(time.Minute)
		w.temp("n1", 95)
		w.pushes("n1", events.Event{MessageID: "X.1.ThresholdExceeded"})
		pass(time.Second)
		expect(t, []string{`hot on n1, cut off, n1: (log "hot") confirmed`}, w.records())
	})
}

// Each event once and in order: pushed, or found in the log while the stream was
// down, and over a restart of the agent.
func TestEachEventIsSeenOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		l := w.lanes["n1"]
		l.logged = []events.Event{fan(1)} // before anybody asked
		w.start(w.dir)
		w.apply(fanRule)
		pass(time.Second)
		l.deliver(events.Notice{Way: events.ByStream, Gap: true})
		pass(time.Second)
		expect(t, nil, w.records())

		w.pushes("n1", fan(2), fan(3))
		pass(time.Second)
		expect(t, []string{aFan, aFan}, w.records())

		// The stream breaks, and what happens meanwhile stands in the log alone.
		l.deliver(events.Notice{Way: events.ByPolling, Gap: true, Why: "the BMC restarts"})
		l.set(func() { l.logged = append(l.logged, fan(4)) })
		pass(logEvery + time.Second)
		expect(t, []string{aFan, aFan, aFan}, w.records())
		l.deliver(events.Notice{Way: events.ByStream, Gap: true})
		pass(time.Second)

		// So does what happens while the agent is dead.
		dead := w.crash()
		w.stop()
		l.set(func() { l.logged = append(l.logged, fan(5)) })
		w.start(dead)
		defer w.stop()
		pass(logEvery + time.Second)
		expect(t, []string{aFan, aFan, aFan, aFan}, w.records())
		if got := w.logs.String(); !strings.Contains(got, `kind=polling reason="the BMC restarts"`) {
			t.Errorf("nobody is told how it is heard:\n%s", got)
		}
	})
}

// The event a rule fires on is kept with the firing: a crash in between neither
// repeats it nor loses it.
func TestKilledBetweenEventAndAction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(w.dir)
		w.apply(`(monitor "n1" (trigger "fan" (cooldown 0s) (condition (event "FanFailed")) (action (wait (= power.state "on") (timeout 1h)))))`)
		pass(logEvery + time.Second)
		w.pushes("n1", fan(1))
		dead := w.crash()
		w.stop()
		w.start(dead)
		defer w.stop()
		pass(2 * logEvery)
		expect(t, []string{`fan on n1, n1: (wait (= power.state "on") (timeout 1h)) unknown (the agent stopped while it did (wait (= power.state "on") (timeout 1h)); it is not repeated)`},
			strip(w.records(), ", cut off"))
	})
}

func strip(all []string, text string) (out []string) {
	for _, s := range all {
		out = append(out, strings.Replace(s, text, "", 1))
	}
	return out
}

// A BMC that tells without end costs a bounded number of writes and reads, and
// keeps nobody else's rule waiting.
func TestThreat35BMCFloodsEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.temp("n2", 50)
		w.start(w.dir)
		defer w.stop()
		w.apply(`(monitor "n1" (trigger "flood" (cooldown 0s) (limit 1 (in 1h)) (condition (event "Never")) (action (log "x"))))
			(monitor "n2" (trigger "hot" (every 10s) (condition (> cpu.temp 90)) (action (log "hot"))))`)
		pass(time.Second)
		l := w.lanes["n1"]
		before := l.logReads
		w.temp("n2", 95)
		for i := range 1100 { // of some twenty events each, a hundred times a second
			for j := range 20 {
				l.deliver(events.Notice{Way: events.ByStream, Gap: true, Events: []events.Event{{MessageID: "X.1.Noise", ID: strconv.Itoa(20*i + j)}}})
			}
			pass(10 * time.Millisecond)
		}
		expect(t, []string{`hot on n2, cut off, n2: (log "hot") confirmed`}, w.records())
		if reads := l.logReads - before; reads > 11*4+2 {
			t.Errorf("its log was read %d times in 11 s", reads)
		}
	})
}

// What an earlier life may have left on a BMC is removed, also where no rule
// listens any longer; a BMC on which nothing was left is not asked.
func TestSubscriptionsOfAnEarlierLifeAreRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.EventsListen, w.cfg.EventsURL = "127.0.0.1:0", "https://127.0.0.1:1"
		a := w.assemble(w.dir)
		if a.receiver == nil {
			t.Fatal("no receiver")
		}
		err := a.spool.Update(func(tx *spool.Tx) error { tx.PutTime(spool.Subscribed, "sha256/n1", a.now()); return nil })
		if err = errors.Join(err, a.Close()); err != nil {
			t.Fatal(err)
		}
		w.cfg.EventsListen = ""
		for range 2 {
			w.start(w.dir)
			pass(2 * sweepAgain)
			w.stop()
		}
		if one, two := w.lanes["n1"].did(), w.lanes["n2"].did(); one != "sweep" || two != "" {
			t.Errorf("n1 was told %q, n2 %q", one, two)
		}
	})
}

// The receiver speaks TLS with the certificate that the configuration names, and
// takes what is delivered to a subscription's own address alone.
func TestReceiver(t *testing.T) {
	w := newWorld(t)
	cert, key, roots := selfSigned(t)
	w.cfg.EventsCert, w.cfg.EventsKey = cert, key
	free, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.cfg.EventsListen = free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	a := w.assemble(w.dir)
	defer func() { _ = a.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.receive(ctx) }()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
	defer client.CloseIdleConnections()
	status := 0
	for deadline := time.Now().Add(10 * time.Second); status == 0 && time.Now().Before(deadline); {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, a.cfg.eventsURL()+"/guess", strings.NewReader(`{"Events":[]}`))
		if err != nil {
			t.Fatal(err)
		}
		if res, err := client.Do(req); err == nil {
			status = res.StatusCode
			_ = res.Body.Close()
		}
	}
	if status != http.StatusNotFound {
		t.Errorf("a guessed address: %d", status)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	a.cfg.EventsKey = filepath.Join(w.dir, "none")
	if err := a.receive(t.Context()); !fault.Is(err, fault.BadInput) || !strings.Contains(err.Error(), "listen for events: ") {
		t.Errorf("without a key: %v", err)
	}
}

// selfSigned is a certificate for 127.0.0.1 and its key, as files.
func selfSigned(t *testing.T) (cert, key string, roots *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	err = errors.Join(os.WriteFile(cert, certPEM, 0o600),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(certPEM)
	return cert, key, roots
}

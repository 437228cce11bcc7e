package openbmc_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/agent/takeover"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

const (
	truststore = "/redfish/v1/Managers/bmc/Truststore/Certificates"
	whole      = "password account anchor request install prove strict weak-logins services root"
)

func TestTheWayOfATakeover(t *testing.T) {
	for name, tc := range map[string]struct {
		sim   bmcsim.Config
		steps string
		want  fleet.Takeover
		limit string // in the limits, "" for none
	}{
		"as usual":                 {steps: whole, want: fleet.TakeoverStrict},
		"password change demanded": {sim: bmcsim.Config{MustChange: true}, steps: whole, want: fleet.TakeoverStrict},
		"a clock of 1970":          {sim: bmcsim.Config{Epoch: true}, steps: strings.Replace(whole, "account", "clock account", 1), want: fleet.TakeoverStrict},
		"without mutual TLS": {
			sim:   bmcsim.Config{NoTLSLogin: true},
			steps: "password account anchor request install tls-login weak-logins services root",
			want:  fleet.TakeoverToken, limit: "tls-login: ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tc.sim)
			w.finish()
			if diff := cmp.Diff(tc.steps, strings.Join(w.did, " ")); diff != "" {
				t.Errorf("steps: %s\nlimits: %v", diff, w.trust().Limits)
			}
			w.ours(tc.want)
			if limits := strings.Join(w.trust().Limits, "\n"); !strings.Contains(limits, tc.limit) || (tc.limit == "") != (limits == "") {
				t.Errorf("limits: %q, want %q", limits, tc.limit)
			}
		})
	}
}

// finish is a take-over to its end.
func (w *world) finish() {
	w.t.Helper()
	if err := w.advance(); err != nil {
		w.t.Fatal(err)
	}
}

// ours checks that the BMC is taken over as far as wanted, and clean.
func (w *world) ours(want fleet.Takeover) {
	w.t.Helper()
	got := w.trust()
	if got.Takeover != want || !got.Done() || len(got.Weak) != 0 || !got.UniquePassword || !got.Own {
		w.t.Errorf("it is %+v, want %s", got, want)
	}
	sessions := 0
	if want == fleet.TakeoverToken {
		sessions = 1 // the one in use
	}
	if have := w.members("/redfish/v1/SessionService/Sessions"); len(have) != sessions {
		w.t.Errorf("sessions are left: %v", have)
	}
	if diff := cmp.Diff([]string{"chiba-a1", "root"}, w.members("/redfish/v1/AccountService/Accounts")); diff != "" {
		w.t.Errorf("accounts: %s", diff)
	}
	if w.bmc.Pin() != w.disk.Record().Pin {
		w.t.Error("the BMC serves another key than the recorded one")
	}
	if status := w.stranger(http.MethodGet, "root", bmcsim.DefaultPassword); status == http.StatusOK {
		w.t.Error("the default password still opens it")
	}
}

func (w *world) members(collection string) []string {
	w.t.Helper()
	all, err := redfish.Members(w.t.Context(), w.lane.Hand(bmc.Person), redfish.Link(collection), 20)
	if err != nil {
		w.t.Fatal(err)
	}
	names := []string{}
	for _, m := range all {
		names = append(names, string(m)[len(collection)+1:])
	}
	return names
}

// stranger is somebody without a certificate who tries a password: the status,
// 0 if the BMC did not speak to him.
func (w *world) stranger(method, user, password string) int {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.base+"/redfish/v1/Systems/system", http.NoBody)
	if err != nil {
		w.t.Fatal(err)
	}
	req.SetBasicAuth(user, password)
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer tr.CloseIdleConnections()
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return 0
	}
	_ = res.Body.Close()
	return res.StatusCode
}

func TestThreat08WebUIBuildFallsBackToTokens(t *testing.T) {
	w := newWorld(t, bmcsim.Config{WebUI: true})
	w.finish()
	w.ours(fleet.TakeoverToken)
	if limits := strings.Join(w.trust().Limits, "\n"); !strings.Contains(limits, "prove: ") || !strings.Contains(limits, "bmcweb#296") {
		t.Errorf("the dead end is not told: %q", limits)
	}
	if len(w.did) > 10 {
		t.Errorf("it went on trying: %v", w.did)
	}
	w.did = nil
	w.finish() // looked at again at once
	if len(w.did) != 0 {
		t.Errorf("it tries again at once: %v", w.did)
	}
}

// TestThreat09StrictFromAPasswordSession: the BMC takes strict mode from a
// certificate alone. The refusal locks nobody out and loops nowhere.
func TestThreat09StrictFromAPasswordSession(t *testing.T) {
	w := newWorld(t, bmcsim.Config{})
	w.until(takeover.Strict)
	_ = w.disk.Keep(func(r takeover.Record) takeover.Record {
		r.ProvenBy = "" // the lane goes back to tokens
		return r
	})
	w.disk.client = nil
	w.disk.settle()
	w.start()
	if err := w.driver.Do(t.Context(), takeover.Strict); err == nil {
		t.Fatal("a session by password switched strict mode on")
	}
	seen, err := w.driver.Look(t.Context())
	if err != nil || seen.Strict {
		t.Fatalf("after the refusal: strict %v, %v", seen.Strict, err)
	}
	w.finish()
	w.ours(fleet.TakeoverStrict)
}

// until goes on until step is the next one.
func (w *world) until(last takeover.Step) {
	w.t.Helper()
	for range 30 {
		seen, err := w.driver.Look(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		_ = w.disk.Keep(func(r takeover.Record) takeover.Record { return r.Absorb(seen) })
		step, _ := takeover.Next(w.now(), seen, w.disk.Record())
		if step == last {
			return
		}
		if err := w.driver.Do(w.t.Context(), step); err != nil {
			w.t.Fatalf("%s: %v", step, err)
		}
	}
	w.t.Fatalf("%s is never due", last)
}

func (w *world) plant(twin []byte) {
	w.t.Helper()
	_, err := w.lane.Hand(bmc.Person).Post(w.t.Context(), truststore, map[string]any{"CertificateString": string(twin)})
	if err != nil {
		w.t.Fatal(err)
	}
}

func TestThreat10FullTruststoreIsRecognised(t *testing.T) {
	w := newWorld(t, bmcsim.Config{})
	w.until(takeover.Anchor)
	for range 10 {
		w.plant(newAuthority(t).Twin())
	}
	w.finish()
	w.ours(fleet.TakeoverToken)
	if limits := strings.Join(w.trust().Limits, "\n"); !strings.Contains(limits, "truststore is full") {
		t.Errorf("limits: %q", limits)
	}
	if tried := strings.Count(strings.Join(w.did, " "), string(takeover.Anchor)); tried != 1 {
		t.Errorf("the anchor was tried %d times", tried)
	}
	// Somebody makes room; an hour later it is tried again, and all is done.
	if err := w.lane.Hand(bmc.Person).Delete(t.Context(), truststore+"/1"); err != nil {
		t.Fatal(err)
	}
	w.later(2 * time.Hour)
	w.finish()
	w.ours(fleet.TakeoverStrict)
}

// A BMC that takes no more accounts says so, with whom it holds and what to do.
func TestABMCThatIsFullOfAccounts(t *testing.T) {
	full := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "/Accounts") {
				next.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":{"@Message.ExtendedInfo":[{"MessageId":"Base.1.19.CreateLimitReachedForResource"}]}}`)
		})
	}
	w := newWorld(t, bmcsim.Config{Around: full})
	w.finish()
	limits := strings.Join(w.trust().Limits, "\n")
	if !strings.Contains(limits, "it holds 1 (root); remove one that nobody needs") {
		t.Errorf("limits: %q", limits)
	}
	if tried := strings.Count(strings.Join(w.did, " "), string(takeover.Account)); tried != 1 {
		t.Errorf("the account was tried %d times", tried)
	}
}

func TestThreat10DuplicateAnchorIsRecognised(t *testing.T) {
	w := newWorld(t, bmcsim.Config{})
	w.until(takeover.Anchor)
	w.plant(w.ca.Twin())
	if err := w.driver.Do(t.Context(), takeover.Anchor); err != nil {
		t.Fatalf("a duplicate is taken for a failure: %v", err)
	}
	w.finish()
	w.ours(fleet.TakeoverStrict)
	if have := w.members(truststore); len(have) != 1 {
		t.Errorf("anchors: %v", have)
	}
}

// TestAnOldSigningRequest: somebody else had the BMC make a key after ours.
func TestAnOldSigningRequest(t *testing.T) {
	w := newWorld(t, bmcsim.Config{})
	w.until(takeover.Install)
	ours := w.disk.Record()
	if err := w.driver.Do(t.Context(), takeover.Request); err != nil {
		t.Fatal(err)
	}
	_ = w.disk.Keep(func(takeover.Record) takeover.Record { return ours })
	w.finish()
	w.later(time.Minute)
	w.finish()
	w.ours(fleet.TakeoverStrict)
	if steps := strings.Join(w.did, " "); !strings.HasPrefix(steps, "install request install prove") {
		t.Errorf("steps: %s", steps)
	}
}

// TestABusyBMCIsAskedAgainLater: one signing request at a time, the second is
// told to come again in ten seconds.
func TestABusyBMCIsAskedAgainLater(t *testing.T) {
	w := newWorld(t, bmcsim.Config{CSRTime: 2 * time.Second})
	w.until(takeover.Request)
	impatient, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := w.driver.Do(impatient, takeover.Request); err == nil {
		t.Fatal("the first request was too quick")
	}
	w.finish()
	block := w.disk.Record().Blocks[takeover.Request]
	if wait := block.Until.Sub(w.now()); wait < 5*time.Second || wait > 10*time.Second {
		t.Errorf("it is asked again in %s: %s", wait, block.Reason)
	}
	w.later(time.Minute)
	w.finish()
	w.ours(fleet.TakeoverStrict)
}

func TestCertificatesAreRenewed(t *testing.T) {
	w := newWorld(t, bmcsim.Config{})
	w.finish()
	before := w.disk.Record().Pin
	w.did = nil
	w.later(19 * 24 * time.Hour)
	w.finish()
	if len(w.did) != 0 {
		t.Errorf("eleven days before the end: %v", w.did)
	}
	w.later(21 * 24 * time.Hour)
	w.finish()
	if diff := cmp.Diff("request install", strings.Join(w.did, " ")); diff != "" {
		t.Error(diff)
	}
	if w.disk.Record().Pin == before {
		t.Error("the key is the same")
	}
	w.ours(fleet.TakeoverStrict)
}

// TestAnExpiredCertificateIsRenewed: the agent was away for 40 days, and comes
// back to a BMC that is strict.
func TestAnExpiredCertificateIsRenewed(t *testing.T) {
	w := newWorld(t, bmcsim.Config{})
	w.finish()
	w.later(40 * 24 * time.Hour)
	w.disk.renew()
	w.start()
	w.did = nil
	w.finish()
	if diff := cmp.Diff("request install", strings.Join(w.did, " ")); diff != "" {
		t.Error(diff)
	}
	w.ours(fleet.TakeoverStrict)
}

func TestTheTwinIsReplaced(t *testing.T) {
	w := newWorld(t, bmcsim.Config{})
	w.finish()
	w.did = nil
	next := newAuthority(t)
	w.ca.cert, w.ca.key = next.cert, next.key
	w.finish()
	if diff := cmp.Diff("anchor request install prove prune", strings.Join(w.did, " ")); diff != "" {
		t.Error(diff)
	}
	w.ours(fleet.TakeoverStrict)
	if have := w.members(truststore); len(have) != 1 {
		t.Errorf("anchors: %v", have)
	}
}

// While the authority changes its key both twins are trusted; what is aborted goes.
func TestTheNextTwinIsPlantedBeside(t *testing.T) {
	w := newWorld(t, bmcsim.Config{})
	w.finish()
	w.did = nil
	next := newAuthority(t)
	w.ca.next = next
	w.finish()
	if have := w.members(truststore); len(have) != 2 {
		t.Errorf("anchors: %v", have)
	}
	w.ca.next = nil
	w.finish()
	if have := w.members(truststore); len(have) != 1 {
		t.Errorf("after an abort: %v", have)
	}
	w.ca.next = next
	w.finish()
	w.ca.next, w.ca.cert, w.ca.key = nil, next.cert, next.key
	w.finish()
	if diff := cmp.Diff("next-anchor prune next-anchor request install prove prune", strings.Join(w.did, " ")); diff != "" {
		t.Error(diff)
	}
	w.ours(fleet.TakeoverStrict)
}

func TestItIsGivenBack(t *testing.T) {
	for name, sim := range map[string]bmcsim.Config{"mutual": {}, "tokens": {WebUI: true}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, sim)
			w.finish()
			w.did = nil
			_ = w.disk.Keep(func(r takeover.Record) takeover.Record { return r.Release("sealed:Known-to-0wner") })
			w.finish()
			if !w.trust().Released || w.trust().Takeover != fleet.TakeoverNone {
				t.Errorf("after %v it is %+v", w.did, w.trust())
			}
			if status := w.stranger(http.MethodGet, "root", "Known-to-0wner"); status != http.StatusOK {
				t.Errorf("its owner gets %d", status)
			}
			if have := fmt.Sprint(w.members("/redfish/v1/AccountService/Accounts"), w.members(truststore)); have != "[root] []" {
				t.Errorf("left: %s", have)
			}
		})
	}
}

func TestABadPasswordDoesNotEndTheRelease(t *testing.T) {
	w := newWorld(t, bmcsim.Config{})
	w.finish()
	_ = w.disk.Keep(func(r takeover.Record) takeover.Record { return r.Release("sealed:short") })
	w.finish()
	if got := w.trust(); got.Released || !strings.Contains(strings.Join(got.Limits, " "), "does not take the password") {
		t.Errorf("it is %+v", got)
	}
	_ = w.disk.Keep(func(r takeover.Record) takeover.Record { return r.Release("sealed:long-Enough-1") })
	w.finish()
	if !w.trust().Released {
		t.Errorf("it is %+v", w.trust())
	}
}

// TestTakenOverAgainAfterARelease.
func TestTakenOverAgainAfterARelease(t *testing.T) {
	w := newWorld(t, bmcsim.Config{})
	w.finish()
	_ = w.disk.Keep(func(r takeover.Record) takeover.Record { return r.Release("sealed:long-Enough-1") })
	w.finish()
	_ = w.disk.Keep(func(r takeover.Record) takeover.Record { return r.Take("root", ourAccount) })
	w.finish()
	w.ours(fleet.TakeoverStrict)
}

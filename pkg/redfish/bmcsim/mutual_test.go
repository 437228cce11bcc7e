package bmcsim_test

import (
	"bufio"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

const (
	truststore = "/redfish/v1/Managers/bmc/Truststore/Certificates"
	httpsCert  = "/redfish/v1/Managers/bmc/NetworkProtocol/HTTPS/Certificates"
	generate   = "/redfish/v1/CertificateService/Actions/CertificateService.GenerateCSR"
	replace    = "/redfish/v1/CertificateService/Actions/CertificateService.ReplaceCertificate"
)

// authority is a CA of the test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  crypto.Signer
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	key := newECKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, err = x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a.key = key
	return a
}

func newECKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func asPEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// issue signs a certificate for a name.
func (a *authority) issue(cn string, public crypto.PublicKey, usage x509.ExtKeyUsage) []byte {
	a.t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: cn}, DNSNames: []string{cn},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return der
}

// client is somebody with a certificate for cn, on connections of its own.
func (a *authority) client(c *caller, cn string) *caller {
	a.t.Helper()
	key := newECKey(a.t)
	tr := c.client.Transport.(*http.Transport).Clone()
	tr.TLSClientConfig.Certificates = []tls.Certificate{{
		Certificate: [][]byte{a.issue(cn, key.Public(), x509.ExtKeyUsageClientAuth)}, PrivateKey: key,
	}}
	a.t.Cleanup(tr.CloseIdleConnections)
	return &caller{t: c.t, base: c.base, client: &http.Client{Transport: tr}}
}

func quoteJSON(s string) string {
	text, _ := json.Marshal(s)
	return string(text)
}

func (c *caller) trust(a *authority) answer {
	c.t.Helper()
	text := asPEM("CERTIFICATE", a.cert.Raw)
	return c.want(c.do(http.MethodPost, truststore, `{"CertificateString":`+quoteJSON(text)+`,"CertificateType":"PEM"}`), http.StatusOK)
}

func TestACertificateIsALogin(t *testing.T) {
	_, admin := start(t, bmcsim.Config{})
	admin.login("root", bmcsim.DefaultPassword)
	ca := newAuthority(t)
	root := ca.client(admin, "root")
	root.want(root.get(system), http.StatusUnauthorized) // nothing is trusted yet
	entry := admin.trust(ca).header.Get("Location")

	root = ca.client(admin, "root")
	root.want(root.get(system), http.StatusOK)
	root.token = "wrong" // the certificate wins
	root.want(root.get(system), http.StatusOK)
	stranger := ca.client(admin, "stranger")
	if a := stranger.want(stranger.get(system), http.StatusUnauthorized); a.header.Get("Allow") == "" || a.header.Get("WWW-Authenticate") != "" {
		t.Errorf("an unknown user with a good certificate is told %v", a.header)
	}

	admin.want(admin.do(http.MethodDelete, entry, ""), http.StatusNoContent)
	root.want(root.get(system), http.StatusOK) // the connection is open
	again := ca.client(admin, "root")
	again.want(again.get(system), http.StatusUnauthorized)
	admin.want(admin.do(http.MethodPatch, "/redfish/v1/AccountService", `{"Oem":{"OpenBMC":{"AuthMethods":{"TLS":false}}}}`), http.StatusNoContent)
	root.want(root.get(system), http.StatusUnauthorized) // cut at once
}

func TestStrictModeShutsStrangersOut(t *testing.T) {
	_, admin := startOver(t, "http/1.1") // HTTP/2 hides the alert
	ca, rogue := newAuthority(t), newAuthority(t)
	admin.trust(ca)
	root := ca.client(admin, "root")
	const respond = `{"MultiFactorAuth":{"ClientCertificate":{"RespondToUnauthenticatedClients":%v}}}`
	root.want(root.do(http.MethodPatch, "/redfish/v1/AccountService", fmt.Sprintf(respond, false)), http.StatusOK)

	admin.client.CloseIdleConnections()
	if _, err := admin.try(http.MethodGet, "/redfish", ""); err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("without a certificate: %v, want alert certificate required", err)
	}
	bad := rogue.client(admin, "root")
	if _, err := bad.try(http.MethodGet, "/redfish", ""); err == nil || !strings.Contains(err.Error(), "unknown certificate authority") {
		t.Errorf("with a rogue certificate: %v, want alert unknown ca", err)
	}
	root.want(root.do(http.MethodPatch, "/redfish/v1/AccountService", fmt.Sprintf(respond, true)), http.StatusOK)
	admin.want(admin.get(system), http.StatusOK)
}

func TestAWebUIBuildAsksForNoCertificate(t *testing.T) {
	_, c := start(t, bmcsim.Config{WebUI: true})
	asked := false
	conn, err := dial(t, c.base, &tls.Config{GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		asked = true
		return &tls.Certificate{}, nil
	}})
	if err != nil || conn.HandshakeContext(t.Context()) != nil || asked {
		t.Errorf("asked %v, %v", asked, err)
	}
}

// A certificate for the BMC's own request is served from the next handshake on,
// and the token that was there before still counts.
func TestACertificateIsRenewed(t *testing.T) {
	b, c := start(t, bmcsim.Config{})
	c.login("root", bmcsim.DefaultPassword)
	before := b.Pin()
	ask := `{"CommonName":"bmc1","City":"A","State":"B","Country":"DE","Organization":"C","OrganizationalUnit":"D",` +
		`"CertificateCollection":{"@odata.id":"` + httpsCert + `"}}`
	a := c.want(c.do(http.MethodPost, generate, ask), http.StatusOK)
	text, _ := a.body["CSRString"].(string)
	block, _ := pem.Decode([]byte(text))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	ca := newAuthority(t)
	leaf := asPEM("CERTIFICATE", ca.issue("bmc1", csr.PublicKey, x509.ExtKeyUsageServerAuth))
	body := `{"CertificateString":` + quoteJSON(leaf) + `,"CertificateType":"PEM","CertificateUri":{"@odata.id":"` + httpsCert + `/1"}}`
	c.want(c.do(http.MethodPost, replace, body), http.StatusOK)
	if b.Pin() == before {
		t.Error("the old key is still served")
	}
	c.client.CloseIdleConnections()
	c.want(c.get(system), http.StatusOK)
	// A new host name does not replace what somebody installed.
	installed := b.Pin()
	c.want(c.do(http.MethodPatch, "/redfish/v1/Managers/bmc/EthernetInterfaces/eth0", `{"HostName":"other"}`), http.StatusNoContent)
	if b.Pin() != installed {
		t.Error("an installed certificate was replaced with the host's name")
	}
}

func TestOneSigningRequestAtATime(t *testing.T) {
	clock := newClock()
	_, c := start(t, bmcsim.Config{CSRTime: time.Millisecond, Now: clock.Now})
	c.login("root", bmcsim.DefaultPassword)
	ask := `{"CommonName":"bmc1","City":"A","State":"B","Country":"DE","Organization":"C","OrganizationalUnit":"D",` +
		`"CertificateCollection":{"@odata.id":"` + httpsCert + `"}}`
	c.want(c.do(http.MethodPost, generate, ask), http.StatusOK)
	if a := c.want(c.do(http.MethodPost, generate, ask), http.StatusServiceUnavailable); a.header.Get("Retry-After") != "10" {
		t.Errorf("Retry-After is %q", a.header.Get("Retry-After"))
	}
	clock.move(time.Second)
	c.want(c.do(http.MethodPost, generate, ask), http.StatusOK)
}

// handClock is moved by hand.
type handClock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *handClock { return &handClock{now: time.Now()} }

func (c *handClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *handClock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func TestAnUpdateRunsAfterTheRestart(t *testing.T) {
	clock := newClock()
	_, c := start(t, bmcsim.Config{Now: clock.Now, ResetTime: 2 * time.Minute})
	c.login("root", bmcsim.DefaultPassword)
	a := c.want(c.do(http.MethodPost, "/redfish/v1/UpdateService/update", "version=9.9\n", "Content-Type: application/octet-stream"), http.StatusAccepted)
	monitor := a.header.Get("Location")
	c.want(c.get(monitor), http.StatusAccepted)
	clock.move(4 * time.Second)
	// The answer that finds it done is still given, and what is asked beside it.
	c.get(monitor)
	c.want(c.get(system), http.StatusOK)
	clock.move(time.Second)
	if _, err := c.try(http.MethodGet, system, ""); err == nil {
		t.Error("a BMC that restarts answers")
	}
	clock.move(3 * time.Minute)
	c.want(c.get(monitor), http.StatusNotFound) // tasks are forgotten, sessions are not
	if v := c.get("/redfish/v1/Managers/bmc").body["FirmwareVersion"]; v != "9.9" {
		t.Errorf("version %v runs, want 9.9", v)
	}
}

func TestTasksAreLost(t *testing.T) {
	b, c := start(t, bmcsim.Config{})
	c.login("root", bmcsim.DefaultPassword)
	if err := b.Fault(bmcsim.Fault{Kind: bmcsim.LostTasks}); err != nil {
		t.Fatal(err)
	}
	a := c.do(http.MethodPost, "/redfish/v1/UpdateService/update", "x", "Content-Type: application/octet-stream")
	c.want(c.get(c.want(a, http.StatusAccepted).header.Get("Location")), http.StatusNotFound)
}

// A board without a battery: whatever its clock was set to, a restart and a loss
// of power bring 1970 back.
func TestTheClockBeginsIn1970(t *testing.T) {
	clock := newClock()
	restarts := make(chan struct{}, 1)
	cfg := bmcsim.Config{
		Epoch: true, Now: clock.Now, ResetTime: 2 * time.Minute, StateFile: filepath.Join(t.TempDir(), "bmc.json"),
		OnRestart: func() { restarts <- struct{}{} },
	}
	says := func(c *caller, want string) {
		t.Helper()
		if at, _ := c.get("/redfish/v1/Managers/bmc").body["DateTime"].(string); !strings.HasPrefix(at, want) {
			t.Errorf("the clock says %s, want %s", at, want)
		}
	}
	_, c := start(t, cfg)
	c.login("root", bmcsim.DefaultPassword)
	says(c, "1970-01-01")
	c.want(c.do(http.MethodPatch, "/redfish/v1/Managers/bmc", `{"DateTime": "2031-05-06T07:08:09+00:00"}`), http.StatusNoContent)
	says(c, "2031-05-06")
	c.want(c.do(http.MethodPost, "/redfish/v1/Managers/bmc/Actions/Manager.Reset", `{"ResetType": "GracefulRestart"}`), http.StatusOK)
	select {
	case <-restarts:
	default:
		t.Error("nobody was told that it restarts")
	}
	clock.move(3 * time.Minute)
	says(c, "1970-01-01")
	c.want(c.do(http.MethodPatch, "/redfish/v1/Managers/bmc", `{"DateTime": "2031-05-06T07:08:09+00:00"}`), http.StatusNoContent)

	_, again := start(t, cfg)
	again.token = c.token // sessions are kept
	says(again, "1970-01-01")
}

func TestTheEventStream(t *testing.T) {
	b, c := startOver(t, "http/1.1")
	c.login("root", bmcsim.DefaultPassword)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.base+"/redfish/v1/EventService/SSE", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("X-Auth-Token", c.token)
	res, err := c.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if len(res.Header) != 1 || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("the stream's headers are %v", res.Header)
	}
	if err := b.Log("DCPowerOff", "Host system DC power is off"); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() && lines.Text() != "" {
		text.WriteString(strings.TrimSpace(lines.Text()) + "\n")
	}
	if got := text.String(); !strings.HasPrefix(got, "id: 2\ndata: {\n") || !strings.Contains(got, `OpenBMC.0.5.DCPowerOff`) {
		t.Errorf("the stream says %s", got)
	}
	if n := len(c.get("/redfish/v1/EventService/Subscriptions").body["Members"].([]any)); n != 1 {
		t.Errorf("%d subscriptions are listed, want the stream", n)
	}
}

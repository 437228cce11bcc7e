package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
)

// bmcLine is a BMC as `get bmcs -o json` shows it.
type bmcLine struct {
	Node           string
	Takeover       string
	Done           bool
	Ours           bool `json:"certificate_ours"`
	UniquePassword bool `json:"unique_password"`
	Open           []string
	Limits         []string
	Level          string
}

// A start ends with every simulated BMC taken over: our certificate is served,
// the default password is gone, basic authentication is off, and who has no
// certificate of the rack gets no answer. openssl and curl say the same.
func TestDevTakesItsBMCsOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dev := w.dev()
	w.must("apply", thermal) // the main job works meanwhile
	dev.wait("8 of 8 BMCs taken over")
	w.takenOver()

	var told []struct {
		Level string
		Has   []struct{ What, From string }
	}
	w.decode(&told, "trust", "explain", "ai-node-0")
	if len(told) != 1 || told[0].Level != "T3" || len(told[0].Has) != 4 {
		t.Errorf("trust explain: %+v", told)
	}
	if out := w.must("audit", "log"); strings.Count(out, "T2 to T3") != 8 {
		t.Errorf("the audit log has not each change of a level:\n%s", out)
	}

	cert, key, anchor := w.clientCertificate()
	for _, address := range w.addresses() {
		url := "https://" + address + "/redfish/v1/Systems/system"
		if status := get(t, url, "", "", anchor); status != 0 {
			t.Errorf("%s: a stranger gets %d", address, status)
		}
		if status := get(t, url, cert, key, anchor); status != http.StatusOK {
			t.Errorf("%s: the certificate gets %d", address, status)
		}
	}
	w.othersSayTheSame("ai-node-0", cert, key, anchor)

	// The rule still fires over mutual TLS.
	watch := w.start("watch")
	w.must("sim", "set", "ai-node-0", "cpu.temp", "95")
	watch.wait("start-new-server-with-image")
	w.sessions(0)
}

// kill -9 of the agent after single steps of the take-overs: it ends taken over
// each time, with no account or session too many.
func TestKill9DuringTheTakeover(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start("dev", "--only", "sim").wait("ready in")
	w.start("dev", "--only", "coordinator").wait("ready in")
	for _, step := range []string{"password", "account", "anchor", "request", "install", "prove", "strict", "weak-logins", "services", "root"} {
		agent := w.start("dev", "--only", "agent", "--verbose")
		if line, ended := agent.out.findAny(patience, "step="+step, "8 of 8 BMCs"); !ended {
			t.Fatalf("after %s: %q", step, line)
		}
		agent.kill()
	}
	last := w.start("dev", "--only", "agent")
	last.wait("8 of 8 BMCs taken over")
	w.linked()
	w.takenOver()
	w.sessions(0)

	cert, key, anchor := w.clientCertificate()
	for name, address := range w.addresses() {
		for collection, want := range map[string]int{
			"AccountService/Accounts": 2, "SessionService/Sessions": 0, "Managers/bmc/Truststore/Certificates": 1,
		} {
			if have := members(t, "https://"+address+"/redfish/v1/"+collection, cert, key, anchor); have != want {
				t.Errorf("%s: %d members of %s, want %d", name, have, collection, want)
			}
		}
	}
}

// takenOver checks that every BMC of the first rack is, as the coordinator knows it.
func (w *world) takenOver() {
	w.t.Helper()
	w.taken(8)
}

// taken checks that as many BMCs are taken over as there are.
func (w *world) taken(bmcs int) {
	w.t.Helper()
	var all []bmcLine
	done := 0
	taken := func() bool {
		all, done = nil, 0 // anew: a decoder leaves in an element what is not said
		w.decode(&all, "get", "bmcs")
		for _, b := range all {
			if b.Done && b.Takeover == "mtls-strict" && b.Ours && b.UniquePassword && b.Level == "T3" && len(b.Open)+len(b.Limits) == 0 {
				done++
			}
		}
		return done == bmcs
	}
	if !eventually(taken) {
		w.t.Fatalf("%d of %d are taken over: %+v", done, bmcs, all)
	}
}

func (w *world) addresses() map[string]string {
	w.t.Helper()
	var nodes []struct{ Name, Address string }
	w.decode(&nodes, "get", "nodes")
	all := map[string]string{}
	for _, n := range nodes {
		all[n.Name] = n.Address
	}
	return all
}

// clientCertificate is one that the rack's CA issues to the agent's account, and
// the anchor of its BMCs: files in PEM.
func (w *world) clientCertificate() (cert, key, anchor string) {
	w.t.Helper()
	return w.certificateOf("chiba-agent-r01")
}

// certificateOf is one for any account.
func (w *world) certificateOf(account string) (cert, key, anchor string) {
	w.t.Helper()
	rack, err := ca.OpenRack(filepath.Join(w.dir, "agent", "rack-ca"), trust.Domain{Site: "dev", Rack: "r01"}, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	chain, err := rack.BMCClient(account, private.Public())
	if err != nil {
		w.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.file("client.pem", string(chain)), w.file("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))),
		w.file("anchor.pem", string(rack.Twin()))
}

func request(t *testing.T, url, cert, key, anchor string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	return (&http.Client{Transport: transport(t, cert, key, anchor)}).Do(req)
}

// transport shows the certificate, if there is one, and believes who has one below
// the anchor.
func transport(t *testing.T, cert, key, anchor string) *http.Transport {
	t.Helper()
	roots := x509.NewCertPool()
	text, err := os.ReadFile(anchor)
	if err != nil {
		t.Fatal(err)
	}
	roots.AppendCertsFromPEM(text)
	conf := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, VerifyConnection: func(state tls.ConnectionState) error {
		_, verifyErr := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots})
		return verifyErr
	}}
	if cert != "" {
		pair, loadErr := tls.LoadX509KeyPair(cert, key)
		if loadErr != nil {
			t.Fatal(loadErr)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}
}

// get is the status of a GET, 0 if nobody answers.
func get(t *testing.T, url, cert, key, anchor string) int {
	t.Helper()
	res, err := request(t, url, cert, key, anchor)
	if err != nil {
		return 0
	}
	_ = res.Body.Close()
	return res.StatusCode
}

func members(t *testing.T, url, cert, key, anchor string) int {
	t.Helper()
	res, err := request(t, url, cert, key, anchor)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var collection struct{ Members []any }
	if err := json.NewDecoder(res.Body).Decode(&collection); err != nil {
		t.Fatal(err)
	}
	return len(collection.Members)
}

package e2e_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/bmctest"
)

// drillVar asks for every case of the drills, which `make drill` does; without it
// a few are drawn.
const drillVar = "CHIBA_DRILL"

const few = 2

// moment is when a process dies: at its nth write request to the BMC, before its
// answer is sent or right after. In both cases the BMC has done it.
type moment struct {
	nth      int
	answered bool
}

func (m moment) String() string {
	if m.answered {
		return fmt.Sprintf("write %d, answered", m.nth)
	}
	return fmt.Sprintf("write %d, not answered", m.nth)
}

// moments are all there are in so many writes, or a few of them.
func moments(t *testing.T, writes int) []moment {
	t.Helper()
	var all []moment
	for nth := 1; nth <= writes; nth++ {
		all = append(all, moment{nth, false}, moment{nth, true})
	}
	if os.Getenv(drillVar) != "" {
		return all
	}
	mathrand.Shuffle(len(all), func(i, k int) { all[i], all[k] = all[k], all[i] })
	return all[:min(few, len(all))]
}

// killer stands before a BMC and kills a process at a moment, with SIGKILL.
type killer struct {
	mu     sync.Mutex
	at     moment
	writes int
	victim *process
	did    []string
}

// arm has the process that start begins killed at m, or none by the zero moment.
func (k *killer) arm(m moment, start func() *process) *process {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.at, k.writes, k.did = m, 0, nil
	k.victim = start()
	return k.victim
}

// disarm tells what was written since arm.
func (k *killer) disarm() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.at = moment{}
	return k.did
}

func (k *killer) around(bmc http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			bmc.ServeHTTP(w, r)
			return
		}
		victim, at := k.turn(r)
		if victim == nil {
			bmc.ServeHTTP(w, r)
			return
		}
		answer := httptest.NewRecorder()
		bmc.ServeHTTP(answer, r)
		if at.answered {
			send(w, answer)
		}
		victim.kill()
		panic(http.ErrAbortHandler)
	})
}

// turn counts a write, and says whom to kill at it.
func (k *killer) turn(r *http.Request) (victim *process, at moment) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.writes++
	k.did = append(k.did, r.Method+" "+r.URL.Path)
	if k.writes != k.at.nth {
		return nil, moment{}
	}
	return k.victim, k.at
}

// send puts the whole answer on the wire.
func send(w http.ResponseWriter, answer *httptest.ResponseRecorder) {
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
	_ = http.NewResponseController(w).Flush()
}

// drill is a fleet of one BMC, which runs here, with its agent and its coordinator
// in processes of their own.
type drill struct {
	*world
	killer
	bmc     *bmcsim.BMC
	address string
}

func newDrill(t *testing.T, conf bmcsim.Config) *drill {
	t.Helper()
	d := &drill{world: newWorld(t)}
	conf.Around = d.around
	var url string
	d.bmc, url = bmctest.Start(t, conf)
	d.address = strings.TrimPrefix(url, "https://")
	rack := fmt.Sprintf("silent: it runs in a test\nnodes:\n  - {name: n1, address: %q, pin: %q, serial: %q}\n", d.address, d.bmc.Pin(), d.bmc.Serial())
	if err := os.WriteFile(filepath.Join(d.dir, "rack.yaml"), []byte(rack), 0o600); err != nil {
		t.Fatal(err)
	}
	d.start("dev", "--only", "coordinator").wait("ready in")
	return d
}

func (d *drill) agent() *process { return d.start("dev", "--only", "agent") }

// dead waits until the process was killed; false if it was not, because it has
// said text.
func (p *process) dead(text string) bool {
	p.t.Helper()
	_, said := p.out.find(text, patience)
	select {
	case <-p.done:
		return true
	default:
	}
	if !said {
		p.t.Fatalf("it neither died nor said %q:\n%s", text, p.out)
	}
	return false
}

const allTaken = "1 of 1 BMCs taken over: only a certificate"

// kill9DuringTakeover takes a BMC over; its agent is killed at m. It returns what was
// written until then.
func kill9DuringTakeover(t *testing.T, conf bmcsim.Config, m moment) []string {
	t.Helper()
	d := newDrill(t, conf)
	agent := d.arm(m, d.agent)
	killed := agent.dead(allTaken)
	if m.nth > 0 && !killed {
		t.Fatalf("there is no %s", m)
	}
	did := d.disarm()
	if killed {
		agent = d.agent()
		agent.wait(allTaken)
	}
	d.linked()
	d.taken(1)
	if code := agent.interrupt(); code != 0 {
		t.Errorf("the agent's Ctrl-C: exit %d", code)
	}
	d.ours()
	return did
}

// ours checks on the BMC itself that it is ours, with nothing too many.
func (d *drill) ours() {
	d.t.Helper()
	cert, key, anchor := d.clientCertificate()
	base := "https://" + d.address + "/redfish/v1/"
	if status := get(d.t, base, "", "", anchor); status != 0 {
		d.t.Errorf("who has no certificate gets %d", status)
	}
	for collection, want := range map[string]int{
		"AccountService/Accounts": 2, "SessionService/Sessions": 0, "Managers/bmc/Truststore/Certificates": 1,
	} {
		if have := members(d.t, base+collection, cert, key, anchor); have != want {
			d.t.Errorf("%d members of %s, want %d", have, collection, want)
		}
	}
	if at := d.bmc.Stats().Sessions; at != 0 {
		d.t.Errorf("%d sessions are left", at)
	}
}

// The agent dies by SIGKILL at any write of a take-over, before its answer or after
// it. The next life ends it: at T3, by our certificate, with no account and no session
// that nobody owns.
func TestKill9AtEveryWriteOfATakeover(t *testing.T) {
	t.Parallel()
	for name, conf := range map[string]bmcsim.Config{
		"factory fresh":            {MustChange: true},
		"a clock of 1970, no must": {Epoch: true},
	} {
		t.Run(name, func(t *testing.T) {
			whole := kill9DuringTakeover(t, conf, moment{})
			if len(whole) < 12 {
				t.Fatalf("a take-over has only %d writes: %v", len(whole), whole)
			}
			for _, m := range moments(t, len(whole)) {
				t.Run(m.String(), func(t *testing.T) {
					did := kill9DuringTakeover(t, conf, m)
					t.Logf("it died at %s", did[len(did)-1])
				})
			}
		})
	}
}

// One BMC is given back and taken again, over and over; the agent dies at any write
// of the giving back.
func TestKill9AtEveryWriteOfARelease(t *testing.T) {
	t.Parallel()
	d := newDrill(t, bmcsim.Config{})
	password := d.file("password", "Known-to-0wner")
	agent := d.agent()
	agent.wait(allTaken)
	release := func(m moment) (did []string) {
		t.Helper()
		d.arm(m, func() *process { return agent })
		command := d.start("bmc", "release", "n1", "--password-file", password, "--yes")
		if m.nth > 0 {
			select {
			case <-agent.done:
			case <-time.After(patience):
				t.Fatalf("there is no %s: %s", m, command.out)
			}
			agent = d.agent()
		}
		<-command.done
		if code := command.cmd.ProcessState.ExitCode(); code != 0 {
			t.Fatalf("release: exit %d\n%s", code, command.out)
		}
		did = d.disarm()
		d.givenBack("root", "Known-to-0wner")
		d.must("bmc", "takeover", "n1", "--password-file", password, "--yes")
		d.taken(1)
		return did
	}
	whole := release(moment{})
	if len(whole) < 5 {
		t.Fatalf("a release has only %d writes: %v", len(whole), whole)
	}
	for _, m := range moments(t, len(whole)) {
		did := release(m)
		t.Logf("%s: it died at %s", m, did[m.nth-1])
	}
	agent.interrupt()
	d.ours()
}

// givenBack checks on the BMC itself that its owner has it, and we have nothing.
func (d *drill) givenBack(user, password string) {
	d.t.Helper()
	client := bmctest.Client(d.t, d.bmc)
	ask := func(path string, body any) {
		req, err := http.NewRequestWithContext(d.t.Context(), http.MethodGet, "https://"+d.address+"/redfish/v1/"+path, http.NoBody)
		if err != nil {
			d.t.Fatal(err)
		}
		req.SetBasicAuth(user, password)
		res, err := client.Do(req)
		if err != nil {
			d.t.Fatalf("its owner: %v", err)
		}
		defer res.Body.Close()
		if err := json.NewDecoder(res.Body).Decode(body); err != nil || res.StatusCode != http.StatusOK {
			d.t.Fatalf("its owner is told %s: %v", res.Status, err)
		}
	}
	for path, want := range map[string]int{"AccountService/Accounts": 1, "Managers/bmc/Truststore/Certificates": 0, "SessionService/Sessions": 0} {
		var collection struct{ Members []any }
		if ask(path, &collection); len(collection.Members) != want {
			d.t.Errorf("given back it has %d members of %s, want %d", len(collection.Members), path, want)
		}
	}
}

// The certificate of a BMC nears its end; the agent dies at any write of the renewal.
func TestKill9AtEveryWriteOfARenewal(t *testing.T) {
	t.Parallel()
	d := newDrill(t, bmcsim.Config{})
	first := d.agent()
	first.wait(allTaken)
	first.interrupt()
	renew := func(m moment) (did []string) {
		t.Helper()
		d.serveUntil(time.Now().Add(5 * 24 * time.Hour))
		agent := d.arm(m, d.agent)
		if m.nth > 0 {
			select {
			case <-agent.done:
			case <-time.After(patience):
				t.Fatalf("there is no %s:\n%s", m, agent.out)
			}
			agent = d.agent()
		}
		d.until("another certificate is served", func() bool { return time.Until(d.served().NotAfter) > 20*24*time.Hour })
		agent.wait(allTaken)
		d.taken(1)
		did = d.disarm()
		agent.interrupt()
		d.ours()
		return did
	}
	whole := renew(moment{})
	if len(whole) != 2 {
		t.Errorf("a renewal has the writes %v; a request and a certificate would do", whole)
	}
	for _, m := range moments(t, len(whole)) {
		renew(m)
	}
}

// served is the BMC's certificate as who logs in sees it.
func (d *drill) served() *x509.Certificate {
	d.t.Helper()
	cert, key, anchor := d.clientCertificate()
	res, err := request(d.t, "https://"+d.address+"/redfish/v1", cert, key, anchor)
	if err != nil {
		d.t.Fatal(err)
	}
	defer res.Body.Close()
	return res.TLS.PeerCertificates[0]
}

// serveUntil has the BMC serve a certificate of the same key and the same names,
// by the same authority, that ends then.
func (d *drill) serveUntil(end time.Time) {
	d.t.Helper()
	at := filepath.Join(d.dir, "agent", "rack-ca", "1")
	pair, err := tls.LoadX509KeyPair(filepath.Join(at, "cert.pem"), filepath.Join(at, "key.pem"))
	if err != nil {
		d.t.Fatal(err)
	}
	by, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		d.t.Fatal("the authority's key is no EC key")
	}
	leaf := *d.served()
	leaf.NotAfter, leaf.SerialNumber = end, big.NewInt(end.UnixNano())
	der, err := x509.CreateCertificate(rand.Reader, &leaf, pair.Leaf, leaf.PublicKey, by)
	if err != nil {
		d.t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{
		"CertificateString": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), "CertificateType": "PEM",
		"CertificateUri": map[string]any{"@odata.id": "/redfish/v1/Managers/bmc/NetworkProtocol/HTTPS/Certificates/1"},
	})
	if err != nil {
		d.t.Fatal(err)
	}
	cert, key, anchor := d.clientCertificate()
	tr := transport(d.t, cert, key, anchor)
	req, err := http.NewRequestWithContext(d.t.Context(), http.MethodPost,
		"https://"+d.address+"/redfish/v1/CertificateService/Actions/CertificateService.ReplaceCertificate", bytes.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK || !d.served().NotAfter.Before(end.Add(time.Minute)) {
		d.t.Fatalf("a certificate that ends soon: %s", res.Status)
	}
}

// The key of the rack's authority is changed; the agent dies at any write of the move.
func TestKill9AtEveryWriteOfARekey(t *testing.T) {
	t.Parallel()
	d := newDrill(t, bmcsim.Config{})
	agent := d.agent()
	agent.wait(allTaken)
	rekey := func(m moment) (did []string) {
		t.Helper()
		before := d.served()
		d.arm(m, func() *process { return agent })
		command := d.start("bmc", "rekey", "r01", "--yes")
		if m.nth > 0 {
			select {
			case <-agent.done:
			case <-time.After(patience):
				t.Fatalf("there is no %s: %s", m, command.out)
			}
			agent = d.agent()
		}
		<-command.done
		if code := command.cmd.ProcessState.ExitCode(); code != 0 {
			t.Fatalf("rekey: exit %d\n%s", code, command.out)
		}
		did = d.disarm()
		d.taken(1)
		d.until("one key is left", func() bool {
			keys, err := filepath.Glob(filepath.Join(d.dir, "agent", "rack-ca", "*", "key.pem"))
			return err == nil && len(keys) == 1
		})
		d.ours()
		if bytes.Equal(before.AuthorityKeyId, d.served().AuthorityKeyId) {
			t.Error("its certificate is by the same key as before")
		}
		return did
	}
	whole := rekey(moment{})
	if len(whole) < 4 {
		t.Fatalf("a change of key has only %d writes: %v", len(whole), whole)
	}
	for _, m := range moments(t, len(whole)) {
		did := rekey(m)
		t.Logf("%s: it died at %s", m, did[m.nth-1])
	}
	agent.interrupt()
}

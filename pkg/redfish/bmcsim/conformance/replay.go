package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

type result struct{ name, method, path, diff string }

// clock is the time of the simulated BMC: a replay does not wait for power,
// updates and dumps, it moves the clock to where the recording was.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// replayer plays one chain of exchanges on one BMC.
type replayer struct {
	chain
	bmc    *bmcsim.BMC
	base   string
	clock  *clock
	plain  *http.Client
	tokens map[string]string // theirs to ours
	names  map[string]string // theirs to ours: ids, tags, certificates
	twins  *twins
	stops  []func()
}

// play serves a fresh BMC and sends it the recordings of a chain.
func play(ctx context.Context, c chain) (results []result, err error) {
	r := &replayer{
		chain: c, clock: &clock{now: time.Now()},
		tokens: map[string]string{}, names: map[string]string{}, twins: newTwins(),
	}
	stop, err := r.serve(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, s := range r.stops {
			s()
		}
		err = errors.Join(err, stop())
	}()
	r.plain = r.client(nil)
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	for _, rec := range c.recordings {
		diff := r.replay(ctx, rec)
		results = append(results, result{rec.name, rec.Request.Method, rec.Request.Path, diff})
		if err := r.after(ctx, rec); err != nil {
			return nil, fmt.Errorf("after %s: %w", rec.name, err)
		}
	}
	return results, nil
}

// serve starts the BMC; the returned function ends it and waits.
func (r *replayer) serve(ctx context.Context) (func() error, error) {
	cfg := r.config()
	cfg.Now = r.clock.Now
	var err error
	if r.bmc, err = bmcsim.New(cfg); err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r.base = "https://" + l.Addr().String()
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- r.bmc.Serve(ctx, l) }()
	return func() error { cancel(); return <-done }, nil
}

// client is an HTTP/1.1 client, as the recordings were made with, that shows
// certificate if the server asks for one.
func (r *replayer) client(certificate *tls.Certificate) *http.Client {
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS13,
			// The BMC is our own, on the loopback, and its key is compared below.
			InsecureSkipVerify: true, //nolint:gosec // verified by pin in VerifyConnection
			VerifyConnection: func(cs tls.ConnectionState) error {
				if bmcsim.PinOf(cs.PeerCertificates[0]) != r.bmc.Pin() {
					return errors.New("the BMC's key is not the pinned one")
				}
				return nil
			},
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if certificate == nil {
					return &tls.Certificate{}, nil
				}
				return certificate, nil
			},
		},
		DisableCompression: true,
		DisableKeepAlives:  usual[r.groups[len(r.groups)-1]] != "", // who tried certificates made a connection for each
	}
	r.stops = append(r.stops, tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

// replay sends one recorded request. Where the answer depends on how far the
// BMC has come, the clock moves on until it is as recorded.
func (r *replayer) replay(ctx context.Context, rec recording) string {
	r.approach(rec)
	diff := r.once(ctx, rec)
	for step := 0; diff != "" && step < 100 && r.moves(rec); step++ {
		r.clock.advance(100 * time.Millisecond)
		diff = r.once(ctx, rec)
	}
	return diff
}

func (r *replayer) once(ctx context.Context, rec recording) string {
	got := r.send(ctx, rec)
	r.learn(rec, got)
	return difference(r.translated(rec), got)
}

// moves are resources that change by themselves, and whose GET changes nothing.
func (r *replayer) moves(rec recording) bool {
	path := rec.Request.Path
	if strings.Contains(path, "/TaskMonitors/") {
		return rec.Response.Status == http.StatusAccepted
	}
	return rec.Request.Method == http.MethodGet && rec.Response.Status == http.StatusOK &&
		(strings.Contains(path, "/Tasks/") || strings.HasSuffix(path, "/Systems/system") || strings.Contains(path, "/Dump/Entries") ||
			strings.HasSuffix(path, "/FirmwareInventory"))
}

// approach gives a task the time to end before a monitor that was recorded as
// finished: asking a monitor twice is not the same as asking it once.
//
// A signing request was made when the one before was done, but for the one that
// was recorded as turned away.
func (r *replayer) approach(rec recording) {
	if strings.HasSuffix(rec.Request.Path, "GenerateCSR") && rec.Response.Status != http.StatusServiceUnavailable {
		r.clock.advance(time.Second)
	}
	if strings.Contains(rec.Request.Path, "/TaskMonitors/") && rec.Response.Status == http.StatusNoContent {
		r.clock.advance(10 * time.Second)
	}
}

// learn remembers our names for what the recorded server named at random.
func (r *replayer) learn(rec recording, got answer) {
	if got.err != nil {
		return
	}
	want := rec.header()
	if token := want["X-Auth-Token"]; token != "" {
		r.tokens[token] = got.header.Get("X-Auth-Token")
	}
	if theirs, ours := want["Location"], got.header.Get("Location"); theirs != "" && ours != "" {
		if id := filepath.Base(theirs); len(id) > 4 { // short ids are counted, not random
			r.names[id] = filepath.Base(ours)
		}
	}
	if tag := want["ETag"]; tag != "" {
		r.names[tag] = got.header.Get("ETag")
	}
	theirs, _ := rec.Response.Body.(map[string]any)
	ours, _ := got.body.(map[string]any)
	r.learnBody(rec, theirs, ours)
}

func (r *replayer) learnBody(rec recording, theirs, ours map[string]any) {
	if csr, isText := theirs["CSRString"].(string); isText {
		if made, isText := ours["CSRString"].(string); isText {
			r.twins.learnRequest(csr, made)
		}
	}
	if token, isText := theirs["token"].(string); isText && rec.Request.Path == "/login" {
		made, _ := ours["token"].(string)
		r.names[token] = made
		for _, cookie := range r.cookies(made) {
			r.names[cookie.theirs] = cookie.ours
		}
	}
	if strings.Contains(rec.Request.Path, "/Entries") {
		r.learnMembers(theirs, ours)
	}
}

// learnMembers pairs the entries of a log by their places.
func (r *replayer) learnMembers(theirs, ours map[string]any) {
	a, _ := theirs["Members"].([]any)
	b, _ := ours["Members"].([]any)
	for i := range min(len(a), len(b)) {
		x, _ := a[i].(map[string]any)
		y, _ := b[i].(map[string]any)
		id, _ := x["Id"].(string)
		made, _ := y["Id"].(string)
		if len(id) > 4 && made != "" && r.names[id] == "" {
			r.names[id] = made
		}
	}
}

// translate puts our names for theirs into a text.
func (r *replayer) translate(s string) string {
	for theirs, ours := range r.names {
		s = strings.ReplaceAll(s, theirs, ours)
	}
	return s
}

// translated is the recording as it would have been with our names.
func (r *replayer) translated(rec recording) recording {
	text, err := json.Marshal(rec.Response.Body)
	if err != nil || rec.Response.Body == nil {
		return rec
	}
	s := r.twins.translate(string(text))
	for theirs, ours := range r.names {
		s = strings.ReplaceAll(s, theirs, ours)
	}
	_ = json.Unmarshal([]byte(s), &rec.Response.Body)
	return rec
}

func (r *replayer) send(ctx context.Context, rec recording) answer {
	body, err := r.body(rec)
	if err != nil {
		return answer{err: err}
	}
	target := r.base + r.sensor(r.translate(rec.Request.Path))
	req, err := http.NewRequestWithContext(ctx, rec.Request.Method, target, strings.NewReader(body))
	if err != nil {
		return answer{err: err}
	}
	for name, value := range rec.Request.Headers {
		if name == "X-Auth-Token" || strings.HasPrefix(value, "Token ") {
			value = r.ourToken(ctx, rec, value)
		}
		req.Header.Set(name, r.translate(value))
	}
	client := r.plain
	if certificate, err := r.clientCertificate(rec); err != nil {
		return answer{err: err}
	} else if certificate != nil {
		client = r.client(certificate)
	}
	return do(client, req)
}

func do(client *http.Client, req *http.Request) answer {
	res, err := client.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer res.Body.Close()
	out, err := io.ReadAll(res.Body)
	a := answer{status: res.StatusCode, header: res.Header, text: string(out), err: err}
	_ = json.Unmarshal(out, &a.body)
	return a
}

// sensor is the path with our name for the one sensor that was read.
func (r *replayer) sensor(path string) string {
	return strings.ReplaceAll(path, "temperature_ambient", "temperature_inlet")
}

// ourToken stands for a recorded token. Those whose login was not recorded get
// a session of their own.
func (r *replayer) ourToken(ctx context.Context, rec recording, recorded string) string {
	scheme, token, hasScheme := strings.Cut(recorded, " ")
	if !hasScheme {
		scheme, token = "", recorded
	}
	if len(token) != 20 || strings.HasSuffix(rec.name, "_bad_token") || strings.HasSuffix(rec.name, "_bad_bearer") {
		return recorded
	}
	if r.tokens[token] == "" {
		user, password := "root", bmcsim.DefaultPassword
		for _, name := range []string{"tstop", "tstro"} {
			if rec.group == "C_priv_"+name {
				user, password = name, otherPassword
			}
		}
		if rec.group == "H_replay_q" {
			user, password = "tstx", otherPassword
		}
		r.tokens[token] = r.login(ctx, user, password)
	}
	return strings.TrimSpace(scheme + " " + r.tokens[token])
}

// login is the token of a new session, "" if it is refused.
func (r *replayer) login(ctx context.Context, user, password string) string {
	a := r.post(ctx, "", sessions, map[string]any{"UserName": user, "Password": password})
	if a.err != nil {
		return ""
	}
	return a.header.Get("X-Auth-Token")
}

// post is a request of the preparation, not of the recording.
func (r *replayer) post(ctx context.Context, token, path string, body any) answer {
	text, err := json.Marshal(body)
	if err != nil {
		return answer{err: err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.base+path, strings.NewReader(string(text)))
	if err != nil {
		return answer{err: err}
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("X-Auth-Token", token)
	}
	return do(r.plain, req)
}

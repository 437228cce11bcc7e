package redfish

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// Reply is a BMC's answer of class 2xx.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte
}

// Location is the path of what a POST created or of the task it began, "" if
// the BMC names none. A host in it is left out: we ask no other.
func (r *Reply) Location() string { return pathOf(r.Header.Get("Location")) }

// request is one thing to ask of the BMC.
type request struct {
	method  string
	uri     string
	body    []byte
	token   string
	basic   *Credentials   // in place of a token
	secrets []fleet.Secret // what no error may repeat
	noRetry bool
	into    *bytes.Buffer // for the body of the answer; nil: one of its own
	aside   bool          // it takes long: over a connection of its own
	accept  string        // default application/json
	lastID  string        // of an event stream

	ifMatch, ifNoneMatch string // entity tags

	// In place of body: a stream of known length, begun anew for each sending.
	stream      func() (io.ReadCloser, error)
	size        int64
	contentType string
}

func (r request) op() string {
	verb := map[string]string{http.MethodGet: "read", http.MethodPatch: "change", http.MethodPost: "post to", http.MethodDelete: "delete"}[r.method]
	return verb + " " + r.uri
}

// uncertain marks a failure after which nobody can tell whether the BMC acted.
type uncertain struct{ error }

func (u uncertain) Unwrap() error { return u.error }

// Uncertain reports whether err left open if the BMC did what was asked: the
// request went out and no answer came back.
func Uncertain(err error) bool {
	var u uncertain
	return errors.As(err, &u)
}

// maxWait bounds a Retry-After; a read waits for one only within its deadline.
const maxWait = time.Hour

// call is one request with its session, its deadline and, for a read, a few
// repetitions.
func (c *Client) call(ctx context.Context, req request) (*Reply, error) {
	limit := max(c.cfg.Limits.Write, c.Profile().WriteWait)
	if req.method == http.MethodGet {
		limit = c.cfg.Limits.Read
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	reply, err := c.authed(ctx, req)
	for n := 1; err != nil && req.method == http.MethodGet && !req.noRetry; n++ {
		wait, tries := worthRepeating(err)
		if n >= tries || !pause(ctx, wait) {
			break
		}
		reply, err = c.authed(ctx, req)
	}
	if err == nil && req.method != http.MethodGet {
		err = c.sound(req, reply)
	}
	return reply, err
}

// sound is an error if the answer to a write says that it is JSON and is not:
// whoever sent it may have done anything.
func (c *Client) sound(req request, reply *Reply) error {
	if len(reply.Body) == 0 || !strings.HasPrefix(reply.Header.Get("Content-Type"), "application/json") {
		return nil
	}
	if err := checkJSON(reply.Body, c.cfg.Limits.Depth); err != nil {
		return uncertain{fault.Wrap(kindOfJSON(err), req.op(), err)}
	}
	return nil
}

// worthRepeating says after how long a failed read may be asked again, and how
// often it may be asked in all: a busy BMC answers later, a connection that
// drops twice is no accident.
func worthRepeating(err error) (wait time.Duration, tries int) {
	var status *StatusError
	switch {
	case errors.As(err, &status) && status.RetryAfter > 0:
		return status.RetryAfter, 4
	case Uncertain(err) && fault.Is(err, fault.Unavailable):
		return 0, 2
	default:
		return 0, 1
	}
}

// pause waits d unless ctx ends before.
func pause(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < d {
		return false // the wait alone would use up the deadline
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// authed sends req with the session's token, logging in if there is none and
// once more if the BMC no longer knows it. A 401 means that nothing was done,
// so that a write too may go out again. Some BMCs say 401 where they mean 403:
// a session that is alive is kept. Where our certificate is a login there is no
// session, unless the BMC does not know the certificate.
func (c *Client) authed(ctx context.Context, req request) (*Reply, error) {
	if c.byCertificate() {
		reply, err := c.exchange(ctx, req)
		if err != nil || reply.Status != http.StatusUnauthorized {
			c.sweep(ctx)
			return c.judge(req, reply, err)
		}
		c.restCertificate()
	}
	for again := false; ; again = true {
		s, err := c.ensure(ctx)
		if err != nil {
			return nil, err
		}
		req.token = s.token
		reply, err := c.exchange(ctx, req)
		if err != nil || reply.Status != http.StatusUnauthorized || c.alive(ctx, s) {
			c.noteLimit(s, reply)
			return c.judge(req, reply, err)
		}
		c.drop(s)
		if again {
			c.restLogin(s.creds)
			return c.judge(req, reply, err)
		}
	}
}

// judge makes an error of an answer that is not a success.
func (c *Client) judge(req request, reply *Reply, err error) (*Reply, error) {
	if err != nil {
		return nil, err
	}
	if reply.Status >= 200 && reply.Status < 300 || reply.Status == http.StatusNotModified && req.ifNoneMatch != "" {
		return reply, nil
	}
	return nil, statusError(req, reply, c.hide(req), c.cfg.Now())
}

// exchange is one round trip. Any status is an answer; an error means that
// there was none, or none within limits.
func (c *Client) exchange(ctx context.Context, req request) (*Reply, error) {
	var sent atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }})
	r, err := c.build(traced, req)
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	reply, err := c.receive(r, req)
	c.observe(req, reply, time.Since(begun))
	if err != nil {
		err = classify(ctx, req.op(), err)
		if sent.Load() {
			err = uncertain{err}
		}
		return nil, err
	}
	return reply, nil
}

// build makes the HTTP request.
func (c *Client) build(ctx context.Context, req request) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, req.method, c.base+req.uri, bytes.NewReader(req.body))
	if err != nil || !strings.HasPrefix(req.uri, "/") || strings.HasPrefix(req.uri, "//") {
		return nil, fault.New(fault.Garbage, req.op(), "not a path on this BMC")
	}
	switch {
	case req.stream != nil:
		if r.Body, err = req.stream(); err != nil {
			return nil, err
		}
		r.GetBody, r.ContentLength = req.stream, req.size
		r.Header.Set("Content-Type", req.contentType)
	case len(req.body) == 0:
		r.Body, r.GetBody = http.NoBody, nil
	default:
		r.Header.Set("Content-Type", "application/json")
	}
	if req.accept == "" {
		req.accept = "application/json"
	}
	r.Close = c.Profile().CloseEach
	r.Header.Set("Accept", req.accept)
	r.Header.Set("OData-Version", "4.0")
	for name, value := range map[string]string{"Last-Event-ID": req.lastID, "If-Match": req.ifMatch, "If-None-Match": req.ifNoneMatch} {
		if value != "" {
			r.Header.Set(name, value)
		}
	}
	switch {
	case req.token != "":
		r.Header.Set("X-Auth-Token", req.token)
	case req.basic != nil:
		r.SetBasicAuth(req.basic.User, req.basic.Password.Reveal())
	}
	return r, nil
}

func (c *Client) observe(req request, reply *Reply, took time.Duration) {
	if c.cfg.Observe == nil {
		return
	}
	e := Exchange{Method: req.method, Took: took}
	if reply != nil {
		e.Status = reply.Status
		e.Date, _ = http.ParseTime(reply.Header.Get("Date"))
		e.Login = req.method == http.MethodPost && reply.Header.Get("X-Auth-Token") != ""
	}
	c.cfg.Observe(e)
}

// receive sends r and reads the whole answer within the limits.
func (c *Client) receive(r *http.Request, req request) (*Reply, error) {
	ways := c.ways.Load()
	client := ways.short
	if req.aside {
		client = ways.long
	}
	res, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	if !req.aside {
		c.h2.Store(res.ProtoMajor == 2)
	}
	buf := req.into
	if buf == nil {
		buf = &bytes.Buffer{}
	}
	return c.whole(res, buf)
}

// whole reads an answer to its end, into buf, and closes it.
func (c *Client) whole(res *http.Response, buf *bytes.Buffer) (*Reply, error) {
	defer res.Body.Close()
	if enc := res.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return nil, fault.New(fault.Garbage, "", fmt.Sprintf("the answer is compressed (%s) though it was not asked for", short(enc)))
	}
	limit := c.cfg.Limits.Body
	if res.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	buf.Reset() // it may hold the answer to an earlier try
	if res.ContentLength > 0 {
		buf.Grow(int(res.ContentLength) + bytes.MinRead)
	}
	n, err := buf.ReadFrom(io.LimitReader(res.Body, limit+1))
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, tooLarge(limit)
	}
	return &Reply{Status: res.StatusCode, Header: res.Header, Body: buf.Bytes()}, nil
}

func tooLarge(limit int64) error {
	return fault.New(fault.TooLarge, "", fmt.Sprintf("the answer is larger than %d bytes", limit))
}

// encode is json.Marshal; a nil body is the empty object that actions take.
func encode(body any) ([]byte, error) {
	if body == nil {
		return []byte("{}"), nil
	}
	return json.Marshal(body)
}

// retryAfter reads the header of that name: seconds or a date. A BMC whose
// clock stands at 1970 sends dates of the past; the answer is between one
// second and maxWait.
func retryAfter(h http.Header, now time.Time) time.Duration {
	text := strings.TrimSpace(h.Get("Retry-After"))
	wait := time.Second
	if seconds, err := strconv.Atoi(text); err == nil {
		wait = time.Duration(min(max(seconds, 0), int(maxWait/time.Second))) * time.Second
	} else if date, err := http.ParseTime(text); err == nil {
		wait = date.Sub(now)
	}
	return min(max(wait, time.Second), maxWait)
}

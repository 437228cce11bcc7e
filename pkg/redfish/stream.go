package redfish

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// aside is the transport for what takes long: uploads and event streams. They
// would hold up every read on the one connection; and OpenBMC serves streams
// over HTTP/1.1 alone: over HTTP/2 it answers 404.
func aside(limits Limits, config *tls.Config) *http.Transport {
	t := transport(limits, config.Clone())
	t.ForceAttemptHTTP2 = false
	t.TLSClientConfig.NextProtos = []string{"http/1.1"}
	t.MaxConnsPerHost, t.MaxIdleConnsPerHost, t.DisableKeepAlives = 0, -1, true
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
	return t
}

// Stream opens an event stream (DSP0266, server-sent events) over a connection
// of its own. lastID, if not "", is the id of the last event that was seen: the
// BMC then sends the later ones first, if it still has them. The caller closes
// the body; it ends with ctx. Only the opening is bounded by the limits.
func (c *Client) Stream(ctx context.Context, uri, lastID string) (io.ReadCloser, error) {
	whole := ctx
	ctx, cancel := context.WithCancel(ctx)
	limit := time.AfterFunc(c.cfg.Limits.Read, cancel)
	body, err := c.openStream(ctx, uri, lastID)
	if late := !limit.Stop(); late && whole.Err() == nil {
		if err == nil {
			_ = body.Close()
		}
		err = fault.New(fault.Timeout, "open the event stream", "no answer within the deadline")
	}
	if err != nil {
		cancel()
		return nil, err
	}
	return &stream{body, cancel}, nil
}

// stream ends its request when it is closed.
type stream struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (s *stream) Close() error {
	s.cancel()
	return s.ReadCloser.Close()
}

func (c *Client) openStream(ctx context.Context, uri, lastID string) (io.ReadCloser, error) {
	req := request{method: http.MethodGet, uri: uri, aside: true, accept: "text/event-stream", lastID: lastID}
	for again := false; ; again = true {
		s, err := c.present(ctx)
		if err != nil {
			return nil, err
		}
		req.token = s.token
		r, err := c.build(ctx, req)
		if err != nil {
			return nil, err
		}
		res, err := c.ways.Load().long.Do(r)
		if err != nil {
			return nil, classify(ctx, req.op(), err)
		}
		if res.StatusCode == http.StatusOK && strings.HasPrefix(res.Header.Get("Content-Type"), req.accept) {
			return res.Body, nil
		}
		reply, err := c.whole(res, &bytes.Buffer{})
		if err != nil || reply.Status != http.StatusUnauthorized || again || c.alive(ctx, s) {
			return nil, c.noStream(req, reply, err)
		}
		if s.token == "" {
			c.restCertificate()
		}
		c.drop(s)
	}
}

// noStream is why an answer is no event stream.
func (c *Client) noStream(req request, reply *Reply, err error) error {
	if _, err = c.judge(req, reply, err); err != nil {
		return err
	}
	return fault.New(fault.Unsupported, "open the event stream", "the BMC answered with something else: "+short(reply.Header.Get("Content-Type")))
}

package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"syscall"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/unixsock"
)

// Client speaks to a running simulator through its control socket. It is safe
// for concurrent use.
type Client struct {
	dir     string
	http    *http.Client
	cleanup func()
}

// Dial prepares to speak to the simulator whose state is in dir. Nothing is
// sent yet. The client must be closed.
func Dial(dir string) (*Client, error) {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return unixsock.Dial(ctx, filepath.Join(dir, socketName))
	}}
	return &Client{dir: dir, http: &http.Client{Transport: tr, Timeout: 30 * time.Second}, cleanup: tr.CloseIdleConnections}, nil
}

// Close ends the client's connections.
func (c *Client) Close() { c.cleanup() }

// Nodes are the simulated servers.
func (c *Client) Nodes(ctx context.Context) (nodes []Node, err error) {
	return nodes, c.call(ctx, http.MethodGet, "/nodes", nil, &nodes)
}

// Stats are the counters of all BMCs.
func (c *Client) Stats(ctx context.Context) (stats []NodeStats, err error) {
	return stats, c.call(ctx, http.MethodGet, "/stats", nil, &stats)
}

// Requests are the last ones that a BMC has answered, oldest first.
func (c *Client) Requests(ctx context.Context, node fleet.NodeName) (list []bmcsim.Request, err error) {
	return list, c.call(ctx, http.MethodGet, nodePath(node, "requests"), nil, &list)
}

// ResetStats sets all counters to zero.
func (c *Client) ResetStats(ctx context.Context) error {
	return c.call(ctx, http.MethodDelete, "/stats", nil, nil)
}

// Get reads one element of a server, or all if ref is empty.
func (c *Client) Get(ctx context.Context, node fleet.NodeName, ref string) (list []Reading, err error) {
	path := nodePath(node, "readings") + "?ref=" + url.QueryEscape(ref)
	return list, c.call(ctx, http.MethodGet, path, nil, &list)
}

// Set moves a server by hand; see bmcsim.BMC.Set.
func (c *Client) Set(ctx context.Context, node fleet.NodeName, ref, value string) error {
	return c.call(ctx, http.MethodPost, nodePath(node, "set"), setRequest{Ref: ref, Value: value}, nil)
}

// Fault makes a BMC fail, or work again.
func (c *Client) Fault(ctx context.Context, node fleet.NodeName, f bmcsim.Fault) error {
	return c.call(ctx, http.MethodPost, nodePath(node, "fault"), faultRequest(f), nil)
}

// Log writes an entry into the event log of a server, and the BMC tells whoever
// listens of it.
func (c *Client) Log(ctx context.Context, node fleet.NodeName, key, text string) error {
	return c.call(ctx, http.MethodPost, nodePath(node, "log"), logRequest{Key: key, Text: text}, nil)
}

// ForgetSessions ends every session of a BMC.
func (c *Client) ForgetSessions(ctx context.Context, node fleet.NodeName) error {
	return c.call(ctx, http.MethodDelete, nodePath(node, "sessions"), nil, nil)
}

func nodePath(node fleet.NodeName, rest string) string {
	return "/nodes/" + url.PathEscape(string(node)) + "/" + rest
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	text, err := json.Marshal(in)
	if err != nil {
		return fault.Wrap(fault.Internal, "encode the command", err)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://sim"+path, bytes.NewReader(text))
	if err != nil {
		return fault.Wrap(fault.BadInput, "make the command", err)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return c.unreachable(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	if err != nil {
		return fault.Wrap(fault.Unavailable, "read the simulator's answer", err)
	}
	if res.StatusCode != http.StatusOK {
		return refusal(res.StatusCode, body)
	}
	if out == nil {
		return nil
	}
	return fault.Wrap(fault.Garbage, "read the simulator's answer", json.Unmarshal(body, out))
}

func (c *Client) unreachable(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return fault.New(fault.Unavailable, "", "no simulator is running in "+c.dir).
			WithHint("start one with: chiba dev (or chiba sim), or name its directory with --state DIR")
	}
	return fault.Wrap(fault.Unavailable, "reach the simulator", err)
}

func refusal(status int, body []byte) error {
	var e errorReply
	if err := json.Unmarshal(body, &e); err != nil || e.Kind == "" {
		return fault.New(fault.Garbage, "read the simulator's answer", fmt.Sprintf("status %d without a reason", status))
	}
	return fault.New(e.Kind, "", e.Error).WithHint(e.Hint)
}

// Package client is the Go SDK: it speaks to a coordinator's API over HTTPS
// (HTTP/2) with a client certificate, and tells what it hears in the nouns of
// pkg/fleet. Every error is a fault.Error with a hint; a script that a
// coordinator found wrong is a ScriptError.
package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"connectrpc.com/connect"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/pkg/wire/pb/pbconnect"
)

const (
	dialTimeout = 5 * time.Second
	callTimeout = 30 * time.Second // of a call that is not a stream, if ctx sets none
	pingAfter   = 15 * time.Second // of silence on the connection
	pingTimeout = 10 * time.Second // then it counts as lost
	maxMessage  = 64 << 20         // the largest answer: a run's results with their bodies
)

// Client speaks to one coordinator; any will do. It is safe for concurrent use.
type Client struct {
	context   Context
	transport *http.Transport
	rpc       pbconnect.FleetClient
}

// Open reads the certificates of c. It connects at the first call; Close lets
// go of the connections.
func Open(c Context) (*Client, error) {
	config, err := c.tls()
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout: dialTimeout,
		TLSClientConfig:     config,
		ForceAttemptHTTP2:   true,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
	plain := &http.Client{
		Transport: transport,
		// Our certificate is for the coordinator the context names, for nobody it points at.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return &Client{
		context:   c,
		transport: transport,
		rpc:       pbconnect.NewFleetClient(plain, c.Address, connect.WithReadMaxBytes(maxMessage)),
	}, nil
}

// Close lets go of the connections. Streams must have ended before.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

func (c Context) tls() (*tls.Config, error) {
	const op = "open the context"
	bad := func(msg string) error {
		return fault.New(fault.BadInput, op, msg).WithHint("look at " + c.file)
	}
	if u, err := url.Parse(c.Address); err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, bad("address " + c.Address + " is not https://host:port")
	}
	pem, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, bad("the CA: " + err.Error())
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, bad("the CA: no certificate in " + c.CA)
	}
	pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, bad("our certificate: " + err.Error())
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		RootCAs:      roots,
		Certificates: []tls.Certificate{pair},
		ServerName:   c.ServerName,
	}, nil
}

// call does one call that is not a stream, with a deadline.
func call[Q, A any](ctx context.Context, c *Client, op string, f func(context.Context, *connect.Request[Q]) (*connect.Response[A], error), q *Q) (*A, error) {
	if _, ok := ctx.Deadline(); !ok {
		bounded, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		ctx = bounded
	}
	answer, err := f(ctx, connect.NewRequest(q))
	if err != nil {
		return nil, c.fromRPC(op, err)
	}
	return answer.Msg, nil
}

// Application is what a coordinator did with a script.
type Application struct {
	Run      Run
	Revision uint64 // of the script; 0 if nothing in it stays in force
	Warnings string // for a person, several lines
	CutOff   []fleet.RackName
}

// ApplyOptions of Client.Apply; zero means the coordinator's default.
type ApplyOptions struct {
	Name    string        // of the script; default: the file's base name without .scl
	Timeout time.Duration // of the run; default 1 h
}

// Apply keeps the standing part of a script and starts its run. It does not
// wait for the run: WatchRun does.
func (c *Client) Apply(ctx context.Context, s Source, o ApplyOptions) (*Application, error) {
	a, err := call(ctx, c, "apply "+s.File, c.rpc.Apply, &pb.ApplyRequest{
		Name: o.Name, File: s.File, Source: s.Text, AllowEmpty: s.AllowEmpty, TimeoutMs: o.Timeout.Milliseconds(),
	})
	if err != nil {
		return nil, err
	}
	if a.GetDiagnostics().GetErrors() > 0 {
		return nil, scriptError(a.GetDiagnostics())
	}
	return &Application{
		Run: *toRun(a.GetRun()), Revision: a.GetRevision(), Warnings: a.GetWarnings(),
		CutOff: list(a.GetCutOff(), rackName),
	}, nil
}

// Nodes are all nodes of the fleet.
func (c *Client) Nodes(ctx context.Context) ([]fleet.Node, error) {
	a, err := call(ctx, c, "list the nodes", c.rpc.ListNodes, &pb.ListNodesRequest{})
	return list(a.GetNodes(), wire.FromNode), err
}

// Agents are all agents that a coordinator knows.
func (c *Client) Agents(ctx context.Context) ([]Agent, error) {
	a, err := call(ctx, c, "list the agents", c.rpc.ListAgents, &pb.ListAgentsRequest{})
	return list(a.GetAgents(), pointed(toAgent)), err
}

// Scripts are the scripts in force, without their source.
func (c *Client) Scripts(ctx context.Context) ([]Script, error) {
	a, err := call(ctx, c, "list the scripts", c.rpc.ListScripts, &pb.ListScriptsRequest{})
	return list(a.GetScripts(), pointed(toScript)), err
}

// Script is a script in force, with its source.
func (c *Client) Script(ctx context.Context, name fleet.ScriptName) (*Script, error) {
	a, err := call(ctx, c, "get script "+string(name), c.rpc.GetScript, &pb.GetScriptRequest{Name: string(name)})
	return toScript(a), err
}

// RemoveScript ends the force of a script; what it did is not undone.
func (c *Client) RemoveScript(ctx context.Context, name fleet.ScriptName) error {
	_, err := call(ctx, c, "remove script "+string(name), c.rpc.RemoveScript, &pb.RemoveScriptRequest{Name: string(name)})
	return err
}

// Runs are the runs that a coordinator remembers, newest first.
func (c *Client) Runs(ctx context.Context) ([]Run, error) {
	a, err := call(ctx, c, "list the runs", c.rpc.ListRuns, &pb.ListRunsRequest{})
	return list(a.GetRuns(), pointed(toRun)), err
}

// Run is a run with what it has done so far.
func (c *Client) Run(ctx context.Context, id fleet.RunID) (*Run, []fleet.Result, error) {
	a, err := call(ctx, c, "get run "+string(id), c.rpc.GetRun, &pb.GetRunRequest{Id: string(id)})
	return toRun(a.GetRun()), list(a.GetResults(), wire.FromResult), err
}

// CancelRun stops a run: steps not begun are skipped.
func (c *Client) CancelRun(ctx context.Context, id fleet.RunID) (*Run, error) {
	a, err := call(ctx, c, "cancel run "+string(id), c.rpc.CancelRun, &pb.CancelRunRequest{Id: string(id)})
	return toRun(a.GetRun()), err
}

// Deny adds somebody to the deny list: their sessions end, and they are let in no
// more. The answer is the denial in force, which may be an earlier one.
func (c *Client) Deny(ctx context.Context, subject, reason string) (fleet.Denial, error) {
	a, err := call(ctx, c, "deny "+subject, c.rpc.Deny, &pb.DenyRequest{Subject: subject, Reason: reason})
	return wire.FromDenial(a.GetDenial()), err
}

// Allow ends a denial, and returns it.
func (c *Client) Allow(ctx context.Context, subject string) (fleet.Denial, error) {
	a, err := call(ctx, c, "allow "+subject, c.rpc.Allow, &pb.AllowRequest{Subject: subject})
	return wire.FromDenial(a.GetDenial()), err
}

// Denied is the deny list, by subject.
func (c *Client) Denied(ctx context.Context) ([]fleet.Denial, error) {
	a, err := call(ctx, c, "list who is denied", c.rpc.ListDenied, &pb.ListDeniedRequest{})
	return wire.FromDenials(a.GetDenied()), err
}

// Firings are the latest firings of rules.
func (c *Client) Firings(ctx context.Context) ([]fleet.Firing, error) {
	a, err := call(ctx, c, "list the firings", c.rpc.ListFirings, &pb.ListFiringsRequest{})
	return list(a.GetFirings(), wire.FromFiring), err
}

// HardwareNews are the latest news of hardware, oldest first.
func (c *Client) HardwareNews(ctx context.Context) ([]fleet.HardwareNews, error) {
	a, err := call(ctx, c, "list the hardware news", c.rpc.ListHardwareNews, &pb.ListHardwareNewsRequest{})
	return list(a.GetNews(), wire.FromHardwareNews), err
}

// Status is how the coordinator is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	a, err := call(ctx, c, "ask the coordinator", c.rpc.Status, &pb.StatusRequest{})
	return Status{
		Coordinator: a.GetCoordinator(), Build: a.GetBuild(), RaftState: a.GetRaftState(),
		Commit: a.GetCommitIndex(), Applied: a.GetAppliedIndex(), Revision: a.GetRevision(),
		Agents: int(a.GetAgents()), Connected: int(a.GetConnected()), Nodes: int(a.GetNodes()),
	}, err
}

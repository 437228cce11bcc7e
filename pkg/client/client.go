// Package client is the Go SDK: it speaks to a coordinator's API over HTTPS
// (HTTP/2) with a client certificate, and tells what it hears in the nouns of
// pkg/fleet. Every error is a fault.Error with a hint; a script that a
// coordinator found wrong is a ScriptError.
package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/keyfile"
	"github.com/chiba-mesh/chiba/pkg/order"
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

// Client speaks to one coordinator; any will do, and if it is lost the next of the
// context does. It is safe for concurrent use.
type Client struct {
	context   Context
	author    Author // nil: nothing can be signed
	transport *http.Transport
	ways      []way
	at        atomic.Int32 // the way that is taken
	read      Consistency
	remark    func(string)
}

// Open reads the certificates of c. It connects at the first call; Close lets
// go of the connections. Without an author it can look and change nothing.
func Open(c Context, author Author) (*Client, error) {
	if c.OnRack() {
		return openAgent(c, author), nil
	}
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
		author:    author,
		transport: transport,
		ways:      waysOf(c, plain),
	}, nil
}

// Close lets go of the connections. Streams must have ended before.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

func (c Context) tls() (*tls.Config, error) {
	const op = "open the context"
	bad := func(msg string) error {
		return fault.New(fault.BadInput, op, msg).WithHint("look at " + c.file)
	}
	addresses := c.Addresses()
	if len(addresses) == 0 {
		return nil, bad("it has no address")
	}
	for _, a := range addresses {
		if u, err := url.Parse(a); err != nil || u.Scheme != "https" || u.Host == "" {
			return nil, bad("address " + a + " is not https://host:port")
		}
	}
	pem, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, bad("the CA: " + err.Error())
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, bad("the CA: no certificate in " + c.CA)
	}
	pair, err := keyfile.Pair(c.Cert, c.Key)
	if err != nil {
		if hint := fault.HintOf(err); hint != "" {
			return nil, fault.Wrap(fault.KindOf(err), op, err)
		}
		return nil, bad("our certificate: " + err.Error())
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		RootCAs:      roots,
		Certificates: []tls.Certificate{pair},
		ServerName:   c.ServerName,
		// After the chain and the name: an address may be in more than one certificate.
		VerifyConnection: func(state tls.ConnectionState) error { return colleague(pair.Leaf, state.PeerCertificates) },
	}, nil
}

// colleague is an error unless the server is a coordinator in the domain of our own
// certificate (package trust says how identities are written). A certificate of ours
// without an identity is of no mesh, and is refused by the coordinator.
func colleague(ours *x509.Certificate, chain []*x509.Certificate) error {
	if len(ours.URIs) != 1 {
		return nil
	}
	domain := ours.URIs[0].Host
	for _, uri := range chain[0].URIs {
		if len(chain[0].URIs) == 1 && uri.Host == domain && strings.HasPrefix(uri.Path, "/coordinator/") {
			return nil
		}
	}
	return fault.New(fault.Untrusted, "", fmt.Sprintf("its certificate names %v, which is no coordinator of %s", chain[0].URIs, domain))
}

// unary is a method of the API that is not a stream.
type unary[Q, A any] func(pbconnect.FleetClient, context.Context, *connect.Request[Q]) (*connect.Response[A], error)

// call does one call that is not a stream, with a deadline.
func call[Q, A any](ctx context.Context, c *Client, op string, f unary[Q, A], q *Q) (*A, error) {
	var answer *connect.Response[A]
	err := c.around(ctx, func(w way) error {
		trying, cancel := c.bounded(ctx)
		defer cancel()
		var err error
		answer, err = f(w.rpc, trying, request(c, q))
		return c.fromRPC(op, w, err)
	})
	if err != nil {
		return nil, err
	}
	c.heed(answer.Header())
	return answer.Msg, nil
}

// bounded is ctx with a deadline for one call, unless it has one.
func (c *Client) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	if c.Several() {
		return context.WithTimeout(ctx, tryTimeout)
	}
	return context.WithTimeout(ctx, callTimeout)
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
	Name    string           // of the script; default: the file's base name without .scl
	Timeout time.Duration    // of the run; default 1 h, and a day for one in waves
	Only    []fleet.NodeName // that what is done once is done on; none: all that it concerns
}

// Apply has a script signed, keeps the standing part of it and starts its run. It
// does not wait for the run: WatchRun does.
func (c *Client) Apply(ctx context.Context, s Source, o ApplyOptions) (*Application, error) {
	signed, err := c.Prepare(ctx, s, o)
	if err != nil {
		return nil, err
	}
	return c.Send(ctx, s.File, *signed)
}

// Nodes are all nodes of the fleet.
func (c *Client) Nodes(ctx context.Context) ([]fleet.Node, error) {
	a, err := call(ctx, c, "list the nodes", pbconnect.FleetClient.ListNodes, &pb.ListNodesRequest{})
	return list(a.GetNodes(), wire.FromNode), err
}

// Found are the BMCs that were found and are none of the fleet, by rack and name.
func (c *Client) Found(ctx context.Context) ([]fleet.Node, error) {
	a, err := call(ctx, c, "list the BMCs that were found", pbconnect.FleetClient.ListNodes, &pb.ListNodesRequest{Candidates: true})
	return list(a.GetCandidates(), wire.FromNode), err
}

// Agents are all agents that a coordinator knows.
func (c *Client) Agents(ctx context.Context) ([]Agent, error) {
	a, err := call(ctx, c, "list the agents", pbconnect.FleetClient.ListAgents, &pb.ListAgentsRequest{})
	for _, silent := range a.GetSilent() {
		if c.remark != nil {
			c.remark("coordinator " + silent + " does not say which agents are connected to it")
		}
	}
	return list(a.GetAgents(), pointed(toAgent)), err
}

// Scripts are the scripts in force, without their source.
func (c *Client) Scripts(ctx context.Context) ([]Script, error) {
	a, err := call(ctx, c, "list the scripts", pbconnect.FleetClient.ListScripts, &pb.ListScriptsRequest{})
	return list(a.GetScripts(), pointed(toScript)), err
}

// Script is a script in force, with its source.
func (c *Client) Script(ctx context.Context, name fleet.ScriptName) (*Script, error) {
	a, err := call(ctx, c, "get script "+string(name), pbconnect.FleetClient.GetScript, &pb.GetScriptRequest{Name: string(name)})
	return toScript(a), err
}

// RemoveScript ends the force of a script; what it did is not undone.
func (c *Client) RemoveScript(ctx context.Context, name fleet.ScriptName) error {
	op := "remove script " + string(name)
	envelope, err := c.end(ctx, op, order.Order{Kind: order.Remove, Name: string(name)})
	if err != nil {
		return err
	}
	_, err = call(ctx, c, op, pbconnect.FleetClient.RemoveScript, &pb.RemoveScriptRequest{Name: string(name), Envelope: envelope})
	return err
}

// Runs are the runs that a coordinator remembers, newest first.
func (c *Client) Runs(ctx context.Context) ([]Run, error) {
	a, err := call(ctx, c, "list the runs", pbconnect.FleetClient.ListRuns, &pb.ListRunsRequest{})
	return list(a.GetRuns(), pointed(toRun)), err
}

// Run is a run with what it has done so far.
func (c *Client) Run(ctx context.Context, id fleet.RunID) (*Run, []fleet.Result, error) {
	a, err := call(ctx, c, "get run "+string(id), pbconnect.FleetClient.GetRun, &pb.GetRunRequest{Id: string(id)})
	return toRun(a.GetRun()), list(a.GetResults(), wire.FromResult), err
}

// CancelRun stops a run: steps not begun are skipped.
func (c *Client) CancelRun(ctx context.Context, id fleet.RunID) (*Run, error) {
	op := "cancel run " + string(id)
	run, err := call(ctx, c, op, pbconnect.FleetClient.GetRun, &pb.GetRunRequest{Id: string(id)})
	if err != nil {
		return nil, err
	}
	envelope, err := c.end(ctx, op, order.Order{Kind: order.Cancel, Name: run.GetRun().GetScript(), Cancels: run.GetRun().GetVersion()})
	if err != nil {
		return nil, err
	}
	a, err := call(ctx, c, op, pbconnect.FleetClient.CancelRun, &pb.CancelRunRequest{Id: string(id), Envelope: envelope})
	return toRun(a.GetRun()), err
}

// How SteerRun steers a run in waves.
const (
	Pause   = "pause"   // no wave begins any more
	Resume  = "resume"  // after a pause, or after too many failures
	Approve = "approve" // the first wave
)

// SteerRun pauses a run in waves, has it go on, or approves it.
func (c *Client) SteerRun(ctx context.Context, id fleet.RunID, act string) (*Run, error) {
	a, err := call(ctx, c, act+" run "+string(id), pbconnect.FleetClient.SteerRun, &pb.SteerRunRequest{Id: string(id), Act: act})
	return toRun(a.GetRun()), err
}

// Deny adds somebody to the deny list: their sessions end, and they are let in no
// more. The answer is the denial in force, which may be an earlier one.
func (c *Client) Deny(ctx context.Context, subject, reason string) (fleet.Denial, error) {
	a, err := call(ctx, c, "deny "+subject, pbconnect.FleetClient.Deny, &pb.DenyRequest{Subject: subject, Reason: reason})
	return wire.FromDenial(a.GetDenial()), err
}

// Allow ends a denial, and returns it.
func (c *Client) Allow(ctx context.Context, subject string) (fleet.Denial, error) {
	a, err := call(ctx, c, "allow "+subject, pbconnect.FleetClient.Allow, &pb.AllowRequest{Subject: subject})
	return wire.FromDenial(a.GetDenial()), err
}

// Denied is the deny list, by subject.
func (c *Client) Denied(ctx context.Context) ([]fleet.Denial, error) {
	a, err := call(ctx, c, "list who is denied", pbconnect.FleetClient.ListDenied, &pb.ListDeniedRequest{})
	return wire.FromDenials(a.GetDenied()), err
}

// Firings are the latest firings of rules.
func (c *Client) Firings(ctx context.Context) ([]fleet.Firing, error) {
	a, err := call(ctx, c, "list the firings", pbconnect.FleetClient.ListFirings, &pb.ListFiringsRequest{})
	return list(a.GetFirings(), wire.FromFiring), err
}

// HardwareNews are the latest news of hardware, oldest first.
func (c *Client) HardwareNews(ctx context.Context) ([]fleet.HardwareNews, error) {
	a, err := call(ctx, c, "list the hardware news", pbconnect.FleetClient.ListHardwareNews, &pb.ListHardwareNewsRequest{})
	return list(a.GetNews(), wire.FromHardwareNews), err
}

// Coordinators are those that decide together, as the one that answers sees them.
func (c *Client) Coordinators(ctx context.Context) ([]Coordinator, error) {
	a, err := call(ctx, c, "list the coordinators", pbconnect.FleetClient.ListCoordinators, &pb.ListCoordinatorsRequest{})
	return list(a.GetCoordinators(), toCoordinator), err
}

// RemoveCoordinator takes a coordinator out of the group.
func (c *Client) RemoveCoordinator(ctx context.Context, name string) error {
	_, err := call(ctx, c, "remove coordinator "+name, pbconnect.FleetClient.RemoveCoordinator, &pb.RemoveCoordinatorRequest{Name: name})
	return err
}

// Status is how the coordinator is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	a, err := call(ctx, c, "ask the coordinator", pbconnect.FleetClient.Status, &pb.StatusRequest{})
	return Status{
		Coordinator: a.GetCoordinator(), Build: a.GetBuild(), RaftState: a.GetRaftState(),
		Commit: a.GetCommitIndex(), Applied: a.GetAppliedIndex(), Revision: a.GetRevision(),
		Agents: int(a.GetAgents()), Connected: int(a.GetConnected()), Nodes: int(a.GetNodes()),
	}, err
}

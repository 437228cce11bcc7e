// Package api is the door for people and programs: the service Fleet over HTTPS
// with client certificates (Connect, gRPC, gRPC-Web and JSON from the same
// handlers). It checks scripts against the fleet, seals their secrets before
// anything of them goes further, commits what they ask for, and tells what comes
// of it.
package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/net/netutil"

	"github.com/chiba-mesh/chiba/coordinator/feed"
	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/pkg/wire/pb/pbconnect"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/sign"
)

const (
	maxConnections = 1024
	// maxStreams is how many plans, shows and watches run at once.
	maxStreams = 1024
	// maxRequest leaves room above the largest script, so that one that is
	// somewhat too large gets its diagnostic.
	maxRequest   = 16 << 20
	headTimeout  = 10 * time.Second // of the TLS handshake, and of the headers
	idleTimeout  = 2 * time.Minute
	writeTimeout = 30 * time.Second // of one message to one who reads slowly
	stopTimeout  = 3 * time.Second
)

// Commands commits; a *raftnode.Node is one.
type Commands interface {
	Propose(ctx context.Context, c *pb.Command) (state.Outcome, error)
}

// Agents are those who do the work; a *hub.Hub is one.
type Agents interface {
	Connected(rack string) bool
	Agents() []*pb.AgentStatus
	Progress(run string) []*pb.RackProgress
	Query(ctx context.Context, rack string, q *pb.Query, each func(*pb.QueryEvent) error) (*pb.QueryEvent_Done, error)
}

// Group is the coordinators that decide together; a *cluster.Cluster is one.
type Group interface {
	Coordinators() []*pb.CoordinatorStatus
	Silent() []string
	Remark() string
	// CatchUp returns when all that was committed before is known here; unless it is
	// verified, a leader that was deposed a moment ago may say what that is.
	CatchUp(ctx context.Context, verified bool) error
	Remove(ctx context.Context, name string) error
}

// Config is what a Server needs.
type Config struct {
	Name     string // of this coordinator
	Build    string
	Machine  *state.Machine
	Commands Commands
	Agents   Agents
	Group    Group
	Feed     *feed.Feed
	Stock    Stock          // nil: it keeps no artifacts
	Denied   *trust.Denials // whose calls are refused
	Root     sign.Keys      // who signs the policy of authors
	Site     string         // in which agents can be enrolled here; "": they can't
	MeshAddr func() string  // where they dial
	// Checkpoint is the signed head of the audit log, as hub.Config has it.
	Checkpoint func(size int64) (*pb.Checkpoint, error)
	// Patience is how long one message to a slow reader may take; default 30 s.
	Patience time.Duration
	// Raft tells the state of the log, for the Status call.
	Raft func() (state string, commit, applied uint64)
	Log  *slog.Logger
}

// Server answers the service Fleet. It is safe for concurrent use.
type Server struct {
	conf    Config
	groups  groups
	streams chan struct{} // slots
	live    live
	guesses guesses
}

// New is a server that is not listening yet.
func New(c Config) *Server {
	if c.Patience <= 0 {
		c.Patience = writeTimeout
	}
	return &Server{conf: c, streams: make(chan struct{}, maxStreams)}
}

var _ pbconnect.FleetHandler = (*Server)(nil)

// Run serves on l, with the TLS configuration conf, which must let in operators
// only, until ctx ends. It closes l and returns when every call has ended.
func (s *Server) Run(ctx context.Context, l net.Listener, conf *tls.Config) error {
	conf = conf.Clone()
	conf.NextProtos = []string{"h2", "http/1.1"}
	server := &http.Server{
		Handler:           s.handler(),
		TLSConfig:         conf,
		ReadHeaderTimeout: headTimeout,
		IdleTimeout:       idleTimeout,
		BaseContext:       func(net.Listener) context.Context { return ctx }, // its end is that of the streams
		ErrorLog:          slog.NewLogLogger(s.conf.Log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		shutDown(server)
	})
	err := server.ServeTLS(netutil.LimitListener(l, maxConnections), "", "")
	if stop() {
		return fault.Wrap(fault.Unavailable, "serve the API", err)
	}
	<-stopped
	return nil
}

func shutDown(server *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		_ = server.Close() // who still reads has had their time
	}
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(pbconnect.NewFleetHandler(s,
		connect.WithReadMaxBytes(maxRequest),
		connect.WithInterceptors(faults{}, reads{s.conf.Group}),
		connect.WithRecover(s.recovered),
	))
	return s.identified(mux)
}

// recovered makes an error of a panic: a bug that one call has found must not
// end the others.
func (s *Server) recovered(_ context.Context, spec connect.Spec, _ http.Header, panicked any) error {
	s.conf.Log.Error("call panicked", "procedure", spec.Procedure, "panic", panicked)
	return toConnect(fault.New(fault.Internal, "", "the coordinator has a bug").WithHint("its log says more; please report it"))
}

// stopped is why a stream ends before its end: the caller has gone, or we go.
func stopped() error {
	return fault.New(fault.Unavailable, "watch", "the coordinator stops").WithHint("start again when it is back")
}

// caller is who calls, and the means to bound how long writing to them takes.
type caller struct {
	name     string
	id       trust.Identity
	chain    []*x509.Certificate
	writer   *http.ResponseController
	patience time.Duration
}

type callerKey struct{}

// identified lets operators in and notes who they are.
func (s *Server) identified(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			http.Error(w, "a client certificate is needed", http.StatusUnauthorized)
			return
		}
		chain := r.TLS.PeerCertificates
		id, err := s.admit(chain)
		if err != nil {
			refuseCall(w, err)
			return
		}
		c := &caller{name: id.Name, id: id, chain: chain, writer: http.NewResponseController(w), patience: s.conf.Patience}
		// Nobody re-checks a certificate on a live connection: its end ends the call.
		ctx, cancel := context.WithDeadline(r.Context(), chain[0].NotAfter)
		defer cancel()
		ctx, end := s.live.begin(context.WithValue(ctx, callerKey{}, c), c)
		defer end()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

func callerOf(ctx context.Context) *caller {
	c, _ := ctx.Value(callerKey{}).(*caller)
	return c
}

// send writes one message of a stream, within the patience we have. The deadline
// is lifted again: HTTP/2 would reset a stream that is merely idle.
func send[M any](ctx context.Context, stream *connect.ServerStream[M], m *M) error {
	c := callerOf(ctx)
	if err := c.writer.SetWriteDeadline(time.Now().Add(c.patience)); err != nil {
		return fault.Wrap(fault.Internal, "send", err)
	}
	if err := stream.Send(m); err != nil {
		return err
	}
	return fault.Wrap(fault.Internal, "send", c.writer.SetWriteDeadline(time.Time{}))
}

// streaming takes a slot for a stream.
func (s *Server) streaming() (release func(), err error) {
	select {
	case s.streams <- struct{}{}:
		return func() { <-s.streams }, nil
	default:
		return nil, fault.New(fault.Unavailable, "", "too many plans and watches are under way").WithHint("try again in a moment")
	}
}

// Status implements pbconnect.FleetHandler.
func (s *Server) Status(context.Context, *connect.Request[pb.StatusRequest]) (*connect.Response[pb.StatusReply], error) {
	counts := s.conf.Machine.Counts()
	connected := int32(0)
	for _, a := range s.conf.Agents.Agents() {
		if a.GetConnected() {
			connected++
		}
	}
	raft, commit, applied := s.conf.Raft()
	return connect.NewResponse(&pb.StatusReply{
		Coordinator: s.conf.Name, Build: s.conf.Build, RaftState: raft, CommitIndex: commit, AppliedIndex: applied,
		Revision: counts.Revision, Agents: int32(counts.Agents), Connected: connected, Nodes: int32(counts.Nodes),
	}), nil
}

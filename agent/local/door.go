// Package local is the agent's own door: a unix socket at which a person on the
// rack's machine does what they would do at a coordinator, while none is reached.
//
// It speaks the API that coordinators have (service Fleet, the Connect protocol), so
// that every client works here as it does there; https://connectrpc.com/docs/protocol
// says how. It needs no library for it: the agent stays small, and what comes in is
// one kind of message from people who own the machine.
//
// The kernel says who knocks. Only root and the user the agent runs as get in; what
// they want done must be signed by authors all the same, which is for the methods to
// see to.
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/unixsock"
)

const (
	headTimeout = 10 * time.Second
	sendTimeout = 30 * time.Second // of one message to one who reads slowly
	stopTimeout = 3 * time.Second
	maxRequest  = 16 << 20
)

// Config is what a Door needs.
type Config struct {
	Path    string            // of the socket
	Methods map[string]Method // of the service Fleet, by name; the others are refused
	Log     *slog.Logger
}

// Door answers at the socket. It is safe for concurrent use.
type Door struct{ conf Config }

// New is a door that is not open yet.
func New(c Config) *Door { return &Door{c} }

// Run answers until ctx ends, and returns when every call has ended. What an earlier
// process left at the path is replaced: the caller sees to it that there is no other.
func (d *Door) Run(ctx context.Context) error {
	const op = "open the agent's socket"
	l, err := unixsock.Listen(ctx, d.conf.Path)
	if err != nil {
		return fault.New(fault.Unavailable, op, err.Error()).WithHint("socket in agent.yaml names another path")
	}
	server := &http.Server{
		Handler:           d,
		ReadHeaderTimeout: headTimeout,
		BaseContext:       func(net.Listener) context.Context { return ctx }, // its end is that of the streams
		ConnContext:       identified,
		ErrorLog:          slog.NewLogLogger(d.conf.Log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		shutDown(server)
	})
	d.conf.Log.Info("answering people on this machine", obs.Addr, d.conf.Path)
	err = server.Serve(l)
	if stop() {
		return fault.Wrap(fault.Unavailable, op, err)
	}
	<-stopped
	return ctx.Err()
}

func shutDown(server *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		_ = server.Close() // who still reads has had their time
	}
}

// User is who speaks, as the kernel knows them.
type User struct {
	UID  uint32
	Name string
}

// String is "root", or "uid 1000" of a user without a name.
func (u User) String() string {
	if u.Name == "" {
		return fmt.Sprintf("uid %d", u.UID)
	}
	return u.Name
}

type peerKey struct{}

// peer is a User, or why it is not known who it is.
type peer struct {
	user User
	err  error
}

func identified(ctx context.Context, c net.Conn) context.Context {
	u, err := userOf(c)
	return context.WithValue(ctx, peerKey{}, peer{u, err})
}

// UserOf is who has made a call.
func UserOf(ctx context.Context) User {
	p, _ := ctx.Value(peerKey{}).(peer)
	return p.user
}

// admit refuses everybody but root and the user of this process.
func admit(ctx context.Context) error {
	const op = "admit"
	p, known := ctx.Value(peerKey{}).(peer)
	switch {
	case !known:
		return fault.New(fault.Denied, op, "it is not known who asks")
	case p.err != nil:
		return fault.New(fault.Denied, op, "it is not known who asks: "+p.err.Error())
	case p.user.UID != 0 && int64(p.user.UID) != int64(os.Geteuid()):
		return fault.New(fault.Denied, op, fmt.Sprintf("%s may not speak to this agent", p.user)).
			WithHint("do it as root, or as the user the agent runs as: sudo chiba --agent …")
	}
	return nil
}

// ServeHTTP implements http.Handler.
func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{w: w, r: r, stream: r.Header.Get("Content-Type") == streamType}
	if err := admit(r.Context()); err != nil {
		d.conf.Log.Warn("refused at the socket", obs.Err, err)
		c.fail(err)
		return
	}
	name, is := cutPrefix(r.URL.Path)
	m, known := d.conf.Methods[name]
	switch {
	case r.Method != http.MethodPost || !is:
		http.NotFound(w, r)
	case !known:
		c.fail(fault.New(fault.Unsupported, "", "a rack's agent can't do that alone").WithHint("ask a coordinator: without --agent"))
	case c.stream != m.stream || !c.stream && r.Header.Get("Content-Type") != unaryType:
		http.Error(w, "the agent takes protobuf messages in the Connect protocol", http.StatusUnsupportedMediaType)
	default:
		d.serve(c, m)
	}
}

func (d *Door) serve(c *call, m Method) {
	ctx, cancel, err := c.deadline()
	if err != nil {
		c.fail(err)
		return
	}
	defer cancel()
	defer func() {
		if p := recover(); p != nil { // a bug that one call has found must not end the agent
			d.conf.Log.Error("call panicked", "procedure", c.r.URL.Path, "panic", p)
			c.fail(fault.New(fault.Internal, "", "the agent has a bug").WithHint("its log says more; please report it"))
		}
	}()
	if err := m.serve(ctx, c); err != nil {
		if errors.Is(err, context.Canceled) && c.r.Context().Err() == nil {
			err = fault.New(fault.Unavailable, "", "the agent stops")
		}
		c.fail(err)
	}
}

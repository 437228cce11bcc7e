package bmcsim

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/traffic"
)

// Serve answers HTTPS on l until ctx ends, then waits for what it started.
// It closes l. It can be called again with another listener.
func (b *BMC) Serve(ctx context.Context, l net.Listener) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	srv := &http.Server{
		Handler:           b.handler(),
		TLSConfig:         b.tlsConfig(),
		ReadHeaderTimeout: b.cfg.Patience,
		IdleTimeout:       10 * time.Minute,
		MaxHeaderBytes:    4 << 10, // net/http adds 4 KiB of its own: 8 in all
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withConn,
		ConnState:         b.counter.Conn,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	telling := make(chan struct{})
	go func() {
		defer close(telling)
		b.hub.Run(ctx)
	}()
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(&limited{Listener: l, counter: b.counter}, "", "") }()
	select {
	case err := <-done:
		stop()
		<-telling
		return err
	case <-ctx.Done():
	}
	_ = srv.Close()
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	b.counter.Wait()
	<-telling
	return nil
}

func (b *BMC) handler() http.Handler {
	if b.cfg.Around == nil {
		return b
	}
	return b.cfg.Around(b)
}

// limited cuts connections beyond the limit, in the TLS handshake as bmcweb does.
type limited struct {
	net.Listener
	counter *traffic.Counter
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.counter.Room() {
			return &peer{Conn: conn}, nil
		}
		_ = conn.Close()
	}
}

type connKey struct{}

func withConn(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// cut closes the connection under a request without a word.
func cut(r *http.Request) {
	if conn, ok := r.Context().Value(connKey{}).(io.Closer); ok {
		_ = conn.Close()
	}
	panic(http.ErrAbortHandler)
}

package bmcsim

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// maxConnections is bmcweb's limit: one more is cut in the TLS handshake.
const maxConnections = 200

// Serve answers HTTPS on l until ctx ends, then waits for what it started.
// It closes l. It can be called again with another listener.
func (b *BMC) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           b,
		TLSConfig:         b.tlsConfig(),
		ReadHeaderTimeout: 15 * time.Second,
		IdleTimeout:       10 * time.Minute,
		MaxHeaderBytes:    4 << 10, // net/http adds 4 KiB of its own: 8 in all
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withConn,
		ConnState:         b.counter.conn,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(&limited{Listener: l, counter: &b.counter}, "", "") }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	_ = srv.Close()
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	b.counter.wait()
	return nil
}

// tlsConfig is bmcweb's "modern" profile: TLS 1.3 alone, a certificate asked
// of every client with an empty list of CAs, none required.
func (b *BMC) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:       tls.VersionTLS13,
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384},
		NextProtos:       []string{"h2", "http/1.1"},
		ClientAuth:       tls.RequestClientCert,
		ClientCAs:        x509.NewCertPool(),
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.cert, nil
		},
		VerifyConnection: func(tls.ConnectionState) error {
			b.counter.handshake()
			return nil
		},
	}
}

// limited cuts connections beyond the limit.
type limited struct {
	net.Listener
	counter *counter
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.counter.room() {
			return conn, nil
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

package bmcsim

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// peer is a client's connection. Who its certificate says it is, is found once,
// in the handshake: a CA that leaves the truststore ends no open connection.
type peer struct {
	net.Conn
	user atomic.Pointer[string]
}

// peerOf is the connection under a request, nil if there is none (tests).
func peerOf(r *http.Request) *peer {
	conn, _ := r.Context().Value(connKey{}).(net.Conn)
	if secured, isTLS := conn.(*tls.Conn); isTLS {
		conn = secured.NetConn()
	}
	p, _ := conn.(*peer)
	return p
}

// name is the user of the client's certificate, "" without one.
func (p *peer) name() string {
	if p == nil {
		return ""
	}
	if user := p.user.Load(); user != nil {
		return *user
	}
	return ""
}

// tlsConfig is bmcweb's "modern" profile: TLS 1.3 alone. A certificate is asked
// of every client with an empty list of CAs and none is required, except in
// strict mode. A build with the web UI asks only in strict mode.
func (b *BMC) tlsConfig() *tls.Config {
	base := &tls.Config{
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
	}
	if b.cfg.WebUI || b.cfg.NoTLSLogin {
		base.ClientAuth = tls.NoClientCert
	}
	base.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		cfg := base.Clone()
		cfg.GetConfigForClient = nil
		p, _ := hello.Conn.(*peer)
		if roots := b.strict(); roots != nil {
			cfg.ClientAuth, cfg.ClientCAs, cfg.Time = tls.RequireAndVerifyClientCert, roots, b.Clock
		}
		cfg.VerifyConnection = func(cs tls.ConnectionState) error {
			b.meet(p, cs.PeerCertificates)
			b.counter.Handshake()
			return nil
		}
		return cfg, nil
	}
	return base
}

// Clock is the time as the BMC has it.
func (b *BMC) Clock() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state.Clock.At(b.cfg.Now())
}

// strict are the CAs that every client must come from, nil if none is needed.
func (b *BMC) strict() *x509.CertPool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.state.Strict {
		return nil
	}
	return b.state.Trust.Roots()
}

// meet notes who the client is. A certificate that says nothing useful is no
// reason to refuse the connection: its owner may still have a password.
func (b *BMC) meet(p *peer, chain []*x509.Certificate) {
	if p == nil || len(chain) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state.Trust.Verify(chain, b.state.Clock.At(b.cfg.Now())) != nil {
		return
	}
	if user, err := b.state.Mapping.User(chain[0], b.state.Hostname); err == nil {
		p.user.Store(&user)
	}
}

// identifyCertificate is the login by certificate. It reports false if there
// was none, or if it is switched off. An unknown user is somebody who may
// nothing.
func (b *BMC) identifyCertificate(q *request) bool {
	if q.peer == "" || !b.state.Auth.TLS {
		return false
	}
	q.user, q.byCertificate = q.peer, true
	if a := b.state.Accounts[q.peer]; a != nil {
		q.role = a.Role
	}
	return true
}

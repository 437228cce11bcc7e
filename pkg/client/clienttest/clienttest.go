// Package clienttest serves a coordinator's API to tests as it is served in
// earnest: over mutual TLS on a loopback port, with a context to find it by.
package clienttest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"connectrpc.com/connect"

	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire/pb/pbconnect"
)

// ServerName is the name in the server's certificate.
const ServerName = "coordinator.test"

// Server is a served API.
type Server struct {
	Addr string // host:port
	http *http.Server
	done chan struct{}
}

// Start serves h and writes a context with fresh certificates for it to the
// directory dir. Close ends it.
func Start(dir string, h pbconnect.FleetHandler) (*Server, error) {
	ca, err := newAuthority()
	if err != nil {
		return nil, err
	}
	serving, err := ca.issue(x509.ExtKeyUsageServerAuth)
	if err != nil {
		return nil, err
	}
	calling, err := ca.issue(x509.ExtKeyUsageClientAuth)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle(pbconnect.NewFleetHandler(h))
	s := &Server{Addr: l.Addr().String(), done: make(chan struct{}), http: &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		TLSConfig: &tls.Config{
			MinVersion:   tls.VersionTLS13,
			Certificates: []tls.Certificate{serving.tls},
			ClientAuth:   tls.RequireAndVerifyClientCert,
			ClientCAs:    pool,
		},
	}}
	go func() {
		defer close(s.done)
		_ = s.http.ServeTLS(l, "", "")
	}()
	return s, errors.Join(write(dir, "ca.pem", ca.pem), write(dir, "cert.pem", calling.pem), write(dir, "key.pem", calling.key),
		client.Context{
			Address: "https://" + s.Addr, ServerName: ServerName, CA: "ca.pem", Cert: "cert.pem", Key: "key.pem",
		}.Save(dir))
}

// Author seals nothing and signs with no key: its envelope is the order, for a
// fleet that is canned.
type Author struct{}

// Seal implements client.Author.
func (Author) Seal([]client.SealKey, string, fleet.Secret) (string, error) { return "sealed", nil }

// Sign implements client.Author.
func (Author) Sign(o order.Order) ([]byte, error) { return o.Encode() }

// Authors is for ctl.Commands.
func Authors(client.Context) (client.Author, error) { return Author{}, nil }

// Close ends the server and every call, and waits for it.
func (s *Server) Close() {
	_ = s.http.Close()
	<-s.done
}

// Error is f as a coordinator sends it.
func Error(code connect.Code, f *fault.Error) error {
	e := connect.NewError(code, f)
	e.Meta().Set("chiba-kind", string(f.Kind))
	e.Meta().Set("chiba-hint", f.Hint)
	return e
}

func write(dir, name string, text []byte) error {
	return os.WriteFile(filepath.Join(dir, name), text, 0o600)
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := template("test CA")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert, key, encode("CERTIFICATE", der)}, err
}

func template(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
}

type pair struct {
	tls      tls.Certificate
	pem, key []byte
}

func (a *authority) issue(use x509.ExtKeyUsage) (*pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := template("test")
	t.KeyUsage, t.ExtKeyUsage, t.DNSNames = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{use}, []string{ServerName}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	p := &pair{pem: encode("CERTIFICATE", der), key: encode("PRIVATE KEY", secret)}
	p.tls, err = tls.X509KeyPair(p.pem, p.key)
	return p, err
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

package redfish

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

const pinPrefix = "sha256/"

// PinOf is the pin of a certificate's public key, "sha256/BASE64". It outlives
// a renewal of the certificate that keeps the key.
func PinOf(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return pinPrefix + base64.StdEncoding.EncodeToString(sum[:])
}

// Fingerprint asks the server at address (host:port) for its certificate and
// trusts nothing: it is what a person compares, or takes at the first meeting.
func Fingerprint(ctx context.Context, address string) (string, error) {
	dialer := tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS12,
		// Only the certificate is looked at: nothing is sent or believed.
		InsecureSkipVerify: true, //nolint:gosec // see above
	}}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return "", classify(ctx, "ask "+address+" for its certificate", err)
	}
	defer conn.Close()
	chain := conn.(*tls.Conn).ConnectionState().PeerCertificates
	if len(chain) == 0 {
		return "", fault.New(fault.Garbage, "ask "+address+" for its certificate", "it showed none")
	}
	return PinOf(chain[0]), nil
}

// transport keeps one connection alive: a TLS handshake costs a BMC more than a
// request. Over HTTP/2 reads share it; over HTTP/1.1 they queue for it.
func transport(limits Limits, config *tls.Config) *http.Transport {
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: limits.Read, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    limits.Read,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{StrictMaxConcurrentRequests: true, SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second},
		MaxConnsPerHost:        limits.Conns,
		MaxIdleConnsPerHost:    limits.Conns,
		IdleConnTimeout:        2 * time.Minute,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // a compressed answer could be a bomb
	}
}

// stayHome follows a redirect of a read to the same BMC and nothing else: our
// token goes to no other host.
func stayHome(req *http.Request, via []*http.Request) error {
	first := via[0]
	home := req.URL.Scheme == first.URL.Scheme && req.URL.Host == first.URL.Host
	if !home || first.Method != http.MethodGet || len(via) > 3 {
		return http.ErrUseLastResponse
	}
	return nil
}

// classify gives a failure of the transport its kind.
func classify(ctx context.Context, op string, err error) error {
	var known *fault.Error
	var unknownCA *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var timeout net.Error
	switch {
	case errors.As(err, &known):
		e := *known
		e.Op = op
		return &e
	case errors.As(err, &unknownCA):
		return fault.New(fault.Untrusted, op, short(unknownCA.Error())).
			WithHint("give the BMC's pin or the certificate of its authority in the agent's catalogue")
	case errors.Is(ctx.Err(), context.Canceled):
		return fault.New(fault.Canceled, op, "stopped")
	case errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout():
		return fault.New(fault.Timeout, op, "no answer within the deadline").
			WithHint("see whether the BMC is reachable and not hung")
	case errors.As(err, &record) || strings.Contains(err.Error(), "malformed HTTP"):
		return fault.New(fault.Garbage, op, short(innermost(err).Error()))
	case strings.Contains(err.Error(), "exceeded") && strings.Contains(err.Error(), "header"):
		return fault.New(fault.TooLarge, op, "the headers of the answer exceed 64 KiB")
	default:
		return fault.New(fault.Unavailable, op, short(innermost(err).Error()))
	}
}

// innermost leaves out what net/http adds: the method and the whole URL.
func innermost(err error) error {
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		if op, ok := errors.AsType[*net.OpError](err); ok {
			return op
		}
		err = inner
	}
	return err
}

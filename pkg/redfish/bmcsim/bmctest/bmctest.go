// Package bmctest runs a simulated BMC for the length of a test.
package bmctest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"testing" //nolint:depguard // a helper that only tests import; test files can't be shared between packages

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

// Start serves a BMC on a port of the loopback interface until the test ends
// and returns it with its base URL, "https://127.0.0.1:PORT".
func Start(tb testing.TB, cfg bmcsim.Config) (*bmcsim.BMC, string) {
	tb.Helper()
	b, err := bmcsim.New(cfg)
	if err != nil {
		tb.Fatalf("make a BMC: %v", err)
	}
	return b, Serve(tb, b)
}

// Serve serves a BMC that exists already and returns its base URL.
func Serve(tb testing.TB, b *bmcsim.BMC) string {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("listen: %v", err)
	}
	// The BMC outlives tb.Context, which ends before cleanups: clients log out there.
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	done := make(chan error, 1)
	go func() { done <- b.Serve(ctx, l) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("serve the BMC: %v", err)
		}
	})
	return "https://" + l.Addr().String()
}

// Client is an HTTP client that trusts b by its pin alone. Its idle
// connections are closed when the test ends.
func Client(tb testing.TB, b *bmcsim.BMC) *http.Client {
	tb.Helper()
	tr := &http.Transport{
		ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS13,
			// Chain and name say nothing about a self-signed certificate: the key is
			// compared with the pin below, on every connection.
			InsecureSkipVerify: true, //nolint:gosec // verified by pin in VerifyConnection
			VerifyConnection: func(cs tls.ConnectionState) error {
				return checkPin(cs.PeerCertificates, b.Pin())
			},
		},
	}
	tb.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func checkPin(chain []*x509.Certificate, want string) error {
	if len(chain) == 0 || bmcsim.PinOf(chain[0]) != want {
		return errors.New("the BMC's key is not the pinned one")
	}
	return nil
}

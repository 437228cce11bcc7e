// Package mesh is the wire between agents and coordinators: sessions over
// mutual-TLS QUIC (quic-go, RFC 9000), many streams in each, and length-prefixed
// protobuf messages on a stream. It knows no message and no role: who the other
// side is, its certificate says; what it may do, package trust decides.
//
// A Session is small so that tests can run one in memory and a fallback can run
// over TCP where UDP is blocked.
package mesh

import (
	"context"
	"crypto/x509"
	"io"
	"time"
)

// ALPN is the protocol that both sides must offer in the TLS handshake.
const ALPN = "chiba/1"

// PeerALPN is the protocol among coordinators.
const PeerALPN = "chiba-raft/1"

// EnrollALPN is the protocol of machines that want to become agents. It has a door of
// its own in the port of the agents, see ListenWithEnrolment.
const EnrollALPN = "chiba-enroll/1"

// BulkALPN is the protocol of agents that pull artifacts from a coordinator: over
// connections of their own, so that control is never behind them.
const BulkALPN = "chiba-bulk/1"

// SiteALPN is the protocol among the agents of a site.
const SiteALPN = "chiba-site/1"

// Session is one authenticated connection to a peer. All methods are safe for
// concurrent use.
type Session interface {
	// Open opens a stream. The peer sees it when the first message is sent.
	Open(ctx context.Context) (Stream, error)
	// Accept waits for a stream that the peer has opened.
	Accept(ctx context.Context) (Stream, error)
	// Close ends the session and all its streams; the peer is told the reason.
	Close(reason string)
	// Done is closed when the session has ended, by whichever side.
	Done() <-chan struct{}
	// Err says why the session has ended, nil while it lives.
	Err() error
	// Peer is the certificate that the peer has proven to own.
	Peer() *x509.Certificate
	// Chain is all that the peer has sent, Peer first. Only Peer is proven; the
	// others are what it was verified with, if it was.
	Chain() []*x509.Certificate
	// Protocol is what the handshake has agreed on: one of the ALPNs.
	Protocol() string
	// Export is a secret of this channel alone, the same at both ends (RFC 8446
	// 7.5): what is bound to it can't be shown elsewhere.
	Export(label string, size int) ([]byte, error)
	// Remote is the peer's address, for people; it identifies nobody.
	Remote() string
}

// Stream is one ordered, reliable, flow-controlled pair of byte streams. One
// goroutine may read while another writes.
type Stream interface {
	io.Reader
	io.Writer
	// Close ends both directions: what was written still arrives, what was
	// not read is discarded.
	Close() error
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
}

// Package enroll is what both ends of chiba-enroll/1 agree on: how a machine that
// knows a root's key and a secret becomes the agent of a rack. It holds the join
// bundle, the token, the ticket and the codes, and decides nothing about whom to let
// in: that is replicated state.
//
//	machine -> coordinator   TLS: a root that was pinned, the key to be certified
//	Begin                    who it wants to be, by which token
//	           <- Challenge  a nonce, and a ticket for any coordinator of the site
//	Finish                   the token's signature over all of it and the TLS channel
//	           <- Enrolled   after one command has consumed the token
package enroll

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// Version is the version of the protocol that this package speaks.
const Version = 1

// ExporterLabel names the secret of the TLS channel (RFC 5705, RFC 8446 7.5) that the
// proof is bound to, of ExporterSize bytes.
const (
	ExporterLabel = "EXPORTER-chiba-enroll-v1"
	ExporterSize  = 32
)

// Sizes in bytes.
const (
	SecretSize = ed25519.SeedSize
	NonceSize  = 32
	MarkSize   = 16
	MaxMessage = 64 << 10
)

// Times of the device flow and of a ticket.
const (
	TicketLife = time.Minute
	PollEvery  = 5 * time.Second
	CodeLife   = 10 * time.Minute
)

// Tokens live a day unless said otherwise, and never longer than MaxTokenLife.
const (
	TokenLife    = 24 * time.Hour
	MaxTokenLife = 30 * 24 * time.Hour
)

// KeySoftware is the kind of key that lies in a file.
const KeySoftware = "software"

// Choose is the version that both speak, of those that the other side has offered.
func Choose(offered []uint32) (uint32, error) {
	if slices.Contains(offered, Version) {
		return Version, nil
	}
	return 0, fault.New(fault.Unsupported, "agree on a version", "none of the versions of chiba-enroll that it offers is spoken here").
		WithHint("run the same build of chiba on agents and coordinators")
}

// Public is the half of a token's secret that coordinators keep. From it nobody can
// join: it verifies and does not sign.
func Public(secret []byte) (ed25519.PublicKey, error) {
	if len(secret) != SecretSize {
		return nil, fault.New(fault.BadInput, "read the token", "its secret has a wrong size")
	}
	public, _ := ed25519.NewKeyFromSeed(secret).Public().(ed25519.PublicKey)
	return public, nil
}

// Transcript is what a machine and a coordinator have said to each other up to the
// proof, and where.
type Transcript struct {
	Begin    []byte // as it was sent
	Version  uint32 // that was chosen
	Nonce    []byte
	Ticket   []byte
	Exporter []byte // of the channel on which the proof is sent
	SPKI     []byte // SHA-256 of the machine's key
}

// digest is over every part with its length: no two transcripts have the same.
func (t Transcript) digest() []byte {
	h := sha256.New()
	h.Write([]byte("chiba-enroll-finish-v1\x00"))
	version := binary.BigEndian.AppendUint32(nil, t.Version)
	for _, part := range [][]byte{t.Begin, version, t.Nonce, t.Ticket, t.Exporter, t.SPKI} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	return h.Sum(nil)
}

// Prove signs the transcript with a token's secret.
func (t Transcript) Prove(secret []byte) ([]byte, error) {
	if _, err := Public(secret); err != nil {
		return nil, err
	}
	return ed25519.Sign(ed25519.NewKeyFromSeed(secret), t.digest()), nil
}

// Check verifies a proof. The error does not tell which part was wrong.
func (t Transcript) Check(key ed25519.PublicKey, proof []byte) error {
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, t.digest(), proof) {
		return fault.New(fault.Denied, "check the join token", "its secret is not the one that this coordinator knows, or was shown elsewhere").
			WithHint("make a new bundle: chiba trust token create")
	}
	return nil
}

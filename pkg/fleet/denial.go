package fleet

import "time"

// Denial refuses somebody, whatever certificate they show. Its subject says whom:
//
//	agent/NAME  operator/NAME  coordinator/NAME  rack/NAME
//	spki/HEX    the SHA-256 of a public key, of a leaf or of a CA above it
//	serial/HEX  the serial number of a certificate, likewise
//	serial:TEXT the serial number of a server, whose BMC is meant
type Denial struct {
	Subject string
	Reason  string
	By      string    // who has made it
	At      time.Time // when
}

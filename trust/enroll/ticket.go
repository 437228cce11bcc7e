package enroll

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// TicketLabel names the secret of a site's CA from which its coordinators have the
// key of their tickets: each can open what another has sealed.
const TicketLabel = "chiba-enroll-ticket-v1"

// Tickets seals and opens tickets: what a coordinator wants to know again when a
// machine finishes, so that it keeps nothing of who only begins.
type Tickets struct{ box cipher.AEAD }

// NewTickets are tickets under a key of 32 bytes.
func NewTickets(key []byte) (*Tickets, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "make the key of tickets", err)
	}
	box, err := cipher.NewGCM(block)
	return &Tickets{box}, fault.Wrap(fault.Internal, "make the key of tickets", err)
}

// Seal makes a ticket. Its nonce must be new and random.
func (t *Tickets) Seal(what *pb.EnrolTicket) ([]byte, error) {
	plain, err := proto.Marshal(what)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "seal the ticket", err)
	}
	nonce := what.GetNonce()[:t.box.NonceSize()]
	return t.box.Seal(append([]byte(nil), nonce...), nonce, plain, []byte(TicketLabel)), nil
}

// Open opens a ticket for the key of this connection, if its time is not over.
func (t *Tickets) Open(ticket, spki []byte, now time.Time) (*pb.EnrolTicket, error) {
	bad := func(why string) (*pb.EnrolTicket, error) {
		return nil, fault.New(fault.Denied, "open the ticket", why).WithHint("begin again")
	}
	size := t.box.NonceSize()
	if len(ticket) < size || len(ticket) > MaxMessage {
		return bad("it is damaged")
	}
	plain, err := t.box.Open(nil, ticket[:size], ticket[size:], []byte(TicketLabel))
	what := &pb.EnrolTicket{}
	switch {
	case err != nil || proto.Unmarshal(plain, what) != nil:
		return bad("no coordinator of this site has made it")
	case subtle.ConstantTimeCompare(what.GetSpki(), spki) != 1:
		return bad("it was given to another key")
	case now.UnixMilli() > what.GetUntilUnixMs():
		return bad("its time is over")
	}
	return what, nil
}

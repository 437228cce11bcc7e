package mesh

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// MaxMessage is the default limit of one message: a script of the largest size
// (4 MiB) and room for its company.
const MaxMessage = 16 << 20

// sendTimeout bounds one Send: a peer that does not read is given up. A write on
// a dead link would otherwise block for the whole idle timeout.
const sendTimeout = 15 * time.Second

const (
	// smallMessage is how large a message may be for which room is made before it has
	// come.
	smallMessage = 4 << 10
	// kept is the largest buffer that a channel keeps for the next message: there are
	// two channels for every agent, and nearly all of them are silent.
	kept = 512
)

// Channel carries protobuf messages on a stream, each behind its length in four
// big-endian bytes. Send is safe for concurrent use; Receive is for one goroutine.
type Channel struct {
	stream Stream
	limit  int
	head   [4]byte // of the message being received
	in     []byte  // that message, if it is small

	mu  sync.Mutex // serialises writers
	out []byte     // the frame being written
}

// NewChannel carries messages on s. A received message of more than limit bytes
// ends the channel; limit 0 means MaxMessage.
func NewChannel(s Stream, limit int) *Channel {
	if limit <= 0 {
		limit = MaxMessage
	}
	return &Channel{stream: s, limit: limit}
}

// Send writes one message, within 15 s.
func (c *Channel) Send(m proto.Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	frame, err := proto.MarshalOptions{}.MarshalAppend(append(c.out[:0], 0, 0, 0, 0), m)
	if err != nil {
		return fault.Wrap(fault.Internal, "encode message", err)
	}
	if cap(frame) <= kept {
		c.out = frame
	}
	size := len(frame) - 4
	if size > MaxMessage {
		return fault.New(fault.TooLarge, "send message", fmt.Sprintf("%d bytes, the limit is %d", size, MaxMessage))
	}
	binary.BigEndian.PutUint32(frame, uint32(size))
	if err := c.stream.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return fault.Wrap(fault.Unavailable, "send message", err)
	}
	if _, err := c.stream.Write(frame); err != nil {
		return fault.Wrap(fault.Unavailable, "send message", err)
	}
	return nil
}

// Receive reads the next message into m. It returns io.EOF when the peer has
// closed the stream between two messages. A message over the limit or one that
// is no protobuf is an error of kind TooLarge or Garbage; the channel can't be
// used after any error.
func (c *Channel) Receive(m proto.Message) error {
	if _, err := io.ReadFull(c.stream, c.head[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return io.EOF
		}
		return fault.Wrap(fault.Unavailable, "receive message", err)
	}
	size := int64(binary.BigEndian.Uint32(c.head[:]))
	if size > int64(c.limit) {
		return fault.New(fault.TooLarge, "receive message", fmt.Sprintf("%d bytes, the limit is %d", size, c.limit))
	}
	if size <= smallMessage {
		body := slices.Grow(c.in[:0], int(size))[:size]
		if cap(body) <= kept {
			c.in = body
		}
		if _, err := io.ReadFull(c.stream, body); err != nil {
			return fault.Wrap(fault.Unavailable, "receive message", err)
		}
		return fault.Wrap(fault.Garbage, "decode message", proto.Unmarshal(body, m))
	}
	// The buffer grows with what arrives, never ahead of it: a length costs
	// the sender four bytes and must not cost us memory.
	var body bytes.Buffer
	if _, err := io.CopyN(&body, c.stream, size); err != nil {
		return fault.Wrap(fault.Unavailable, "receive message", err)
	}
	return fault.Wrap(fault.Garbage, "decode message", proto.Unmarshal(body.Bytes(), m))
}

// SetReceiveDeadline bounds the next Receives; the zero time lifts the bound.
func (c *Channel) SetReceiveDeadline(t time.Time) error { return c.stream.SetReadDeadline(t) }

// Stream is the stream for whoever goes on without the channel: it begins behind the
// last message that was received.
func (c *Channel) Stream() Stream { return c.stream }

// Close closes the stream.
func (c *Channel) Close() error { return c.stream.Close() }

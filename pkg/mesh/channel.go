package mesh

import (
	"bufio"
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
	// readAhead is how much a channel reads at once.
	readAhead = 2 << 10
	// smallMessage is how large a message may be for which room is made before it has
	// come.
	smallMessage = 4 << 10
)

// Channel carries protobuf messages on a stream, each behind its length in four
// big-endian bytes. It reads ahead, so a stream has one channel only. Send is safe for concurrent use; Receive is for one
// goroutine.
type Channel struct {
	stream Stream
	limit  int
	in     *bufio.Reader // small: there are two for every agent
	small  []byte        // the last small message, reused

	mu  sync.Mutex // serialises writers
	out []byte     // the frame being written, reused
}

// NewChannel carries messages on s. A received message of more than limit bytes
// ends the channel; limit 0 means MaxMessage.
func NewChannel(s Stream, limit int) *Channel {
	if limit <= 0 {
		limit = MaxMessage
	}
	return &Channel{stream: s, limit: limit, in: bufio.NewReaderSize(s, readAhead)}
}

// Send writes one message, within 15 s.
func (c *Channel) Send(m proto.Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	frame, err := proto.MarshalOptions{}.MarshalAppend(append(c.out[:0], 0, 0, 0, 0), m)
	if err != nil {
		return fault.Wrap(fault.Internal, "encode message", err)
	}
	c.out = keepSmall(frame)
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

// keepSmall lets go of a buffer that one large message has made.
func keepSmall(buf []byte) []byte {
	if cap(buf) > 64<<10 {
		return nil
	}
	return buf
}

// Receive reads the next message into m. It returns io.EOF when the peer has
// closed the stream between two messages. A message over the limit or one that
// is no protobuf is an error of kind TooLarge or Garbage; the channel can't be
// used after any error.
func (c *Channel) Receive(m proto.Message) error {
	var head [4]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return io.EOF
		}
		return fault.Wrap(fault.Unavailable, "receive message", err)
	}
	size := int64(binary.BigEndian.Uint32(head[:]))
	if size > int64(c.limit) {
		return fault.New(fault.TooLarge, "receive message", fmt.Sprintf("%d bytes, the limit is %d", size, c.limit))
	}
	if size <= smallMessage {
		c.small = slices.Grow(c.small[:0], int(size))[:size]
		if _, err := io.ReadFull(c.in, c.small); err != nil {
			return fault.Wrap(fault.Unavailable, "receive message", err)
		}
		return fault.Wrap(fault.Garbage, "decode message", proto.Unmarshal(c.small, m))
	}
	// The buffer grows with what arrives, never ahead of it: a length costs
	// the sender four bytes and must not cost us memory.
	var body bytes.Buffer
	if _, err := io.CopyN(&body, c.in, size); err != nil {
		return fault.Wrap(fault.Unavailable, "receive message", err)
	}
	return fault.Wrap(fault.Garbage, "decode message", proto.Unmarshal(body.Bytes(), m))
}

// SetReceiveDeadline bounds the next Receives; the zero time lifts the bound.
func (c *Channel) SetReceiveDeadline(t time.Time) error { return c.stream.SetReadDeadline(t) }

// Stream is the stream for whoever goes on without the channel: it begins behind the
// last message that was received, though the channel has read further.
func (c *Channel) Stream() Stream { return ahead{c.stream, c.in} }

// ahead is a stream of which some was read already.
type ahead struct {
	Stream
	in *bufio.Reader
}

func (a ahead) Read(p []byte) (int, error) { return a.in.Read(p) }

// Close closes the stream.
func (c *Channel) Close() error { return c.stream.Close() }

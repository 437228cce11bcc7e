package local

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire"
)

// Of the Connect protocol.
const (
	prefix     = "/chiba.v1.Fleet/"
	unaryType  = "application/proto"
	streamType = "application/connect+proto"

	flagCompressed = 1
	flagEnd        = 2

	timeoutHeader = "Connect-Timeout-Ms"
	// As a coordinator tells the kind of an error, and what to do about it.
	kindHeader = "Chiba-Kind"
	hintHeader = "Chiba-Hint"
)

func cutPrefix(path string) (name string, is bool) { return strings.CutPrefix(path, prefix) }

// Method is a method of the API.
type Method struct {
	stream bool
	serve  func(ctx context.Context, c *call) error
}

// message is a pointer to a T that is a message.
type message[T any] interface {
	*T
	proto.Message
}

// Unary is a method that answers once.
func Unary[Q, A any, PQ message[Q], PA message[A]](f func(ctx context.Context, q PQ) (PA, error)) Method {
	return Method{serve: func(ctx context.Context, c *call) error {
		q := PQ(new(Q))
		if err := c.receive(q); err != nil {
			return err
		}
		a, err := f(ctx, q)
		if err != nil {
			return err
		}
		return c.answer(a)
	}}
}

// Stream is a method that answers with any number of messages. Its send is for one
// goroutine.
func Stream[Q, A any, PQ message[Q], PA message[A]](f func(ctx context.Context, q PQ, send func(PA) error) error) Method {
	return Method{stream: true, serve: func(ctx context.Context, c *call) error {
		q := PQ(new(Q))
		if err := c.receive(q); err != nil {
			return err
		}
		c.begin()
		if err := f(ctx, q, func(a PA) error { return c.send(a) }); err != nil {
			return err
		}
		return c.end(nil)
	}}
}

// call is one call as it is answered.
type call struct {
	w      http.ResponseWriter
	r      *http.Request
	stream bool
	begun  bool // something was sent
}

// deadline is the context of the call, as long as the caller waits.
func (c *call) deadline() (context.Context, context.CancelFunc, error) {
	text := c.r.Header.Get(timeoutHeader)
	if text == "" {
		ctx, cancel := context.WithCancel(c.r.Context())
		return ctx, cancel, nil
	}
	ms, err := strconv.ParseUint(text, 10, 40)
	if err != nil {
		return nil, nil, fault.New(fault.BadInput, "", timeoutHeader+" is no time")
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), time.Duration(ms)*time.Millisecond)
	return ctx, cancel, nil
}

// receive reads the one message of a request.
func (c *call) receive(m proto.Message) error {
	const op = "read the request"
	var body bytes.Buffer
	if _, err := body.ReadFrom(http.MaxBytesReader(c.w, c.r.Body, maxRequest)); err != nil {
		kind := fault.Unavailable
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			kind = fault.TooLarge
		}
		return fault.New(kind, op, err.Error())
	}
	data := body.Bytes()
	if c.stream {
		if len(data) < 5 || data[0]&flagCompressed != 0 || uint64(binary.BigEndian.Uint32(data[1:5])) != uint64(len(data)-5) {
			return fault.New(fault.Garbage, op, "it is not one plain message")
		}
		data = data[5:]
	}
	return fault.Wrap(fault.Garbage, op, proto.Unmarshal(data, m))
}

// answer is the end of a call that answers once.
func (c *call) answer(m proto.Message) error {
	data, err := proto.Marshal(m)
	if err != nil {
		return fault.Wrap(fault.Internal, "write the answer", err)
	}
	c.w.Header().Set("Content-Type", unaryType)
	c.begun = true
	return c.write(data)
}

// begin sends the headers of a stream, so that the caller knows that it was heard.
func (c *call) begin() {
	c.begun = true
	c.w.Header().Set("Content-Type", streamType)
	c.w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(c.w).Flush() // who has gone is noticed by the first message
}

func (c *call) send(m proto.Message) error {
	data, err := proto.Marshal(m)
	if err != nil {
		return fault.Wrap(fault.Internal, "write the answer", err)
	}
	return c.frame(0, data)
}

// end is the last frame of a stream, with its error if there is one.
func (c *call) end(err error) error {
	last := struct {
		Error    *wireError          `json:"error,omitempty"`
		Metadata map[string][]string `json:"metadata,omitempty"`
	}{}
	if err != nil {
		last.Error, last.Metadata = errorOf(err)
	}
	data, err := json.Marshal(last)
	if err != nil {
		return fault.Wrap(fault.Internal, "write the answer", err)
	}
	return c.frame(flagEnd, data)
}

func (c *call) frame(flags byte, data []byte) error {
	head := binary.BigEndian.AppendUint32([]byte{flags}, uint32(len(data)))
	return c.write(append(head, data...))
}

// write sends what is there, within the patience we have.
func (c *call) write(data []byte) error {
	out := http.NewResponseController(c.w)
	if err := out.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return fault.Wrap(fault.Internal, "write the answer", err)
	}
	if _, err := io.Copy(c.w, bytes.NewReader(data)); err != nil {
		return fault.Wrap(fault.Unavailable, "write the answer", err)
	}
	return fault.Wrap(fault.Unavailable, "write the answer", errors.Join(out.Flush(), out.SetWriteDeadline(time.Time{})))
}

// fail ends a call with an error, as far as it can still be told.
func (c *call) fail(err error) {
	if c.stream {
		if !c.begun {
			c.begin()
		}
		_ = c.end(err)
		return
	}
	if c.begun {
		return // half an answer is an error by itself
	}
	e, meta := errorOf(err)
	maps.Copy(c.w.Header(), meta)
	c.w.Header().Set("Content-Type", "application/json")
	c.w.WriteHeader(statusOf(e.Code))
	_ = json.NewEncoder(c.w).Encode(e)
}

// wireError is an error as the protocol has it.
type wireError struct {
	Code    string `json:"code"`
	Message string `json:"message,omitempty"`
}

func errorOf(err error) (*wireError, map[string][]string) {
	kind, text, hint := wire.ToFault(err)
	meta := map[string][]string{kindHeader: {kind}}
	if hint != "" {
		meta[hintHeader] = []string{strings.Join(strings.Fields(hint), " ")} // a header is one line
	}
	return &wireError{codeOf(fault.Kind(kind)), text}, meta
}

// codeOf is the protocol's word for a kind, which travels beside it for those who
// know it.
func codeOf(k fault.Kind) string {
	switch k {
	case fault.BadInput:
		return "invalid_argument"
	case fault.NotFound:
		return "not_found"
	case fault.Conflict:
		return "failed_precondition"
	case fault.Denied, fault.Untrusted:
		return "permission_denied"
	case fault.Unsupported:
		return "unimplemented"
	case fault.Unavailable:
		return "unavailable"
	case fault.Timeout:
		return "deadline_exceeded"
	case fault.TooLarge:
		return "resource_exhausted"
	case fault.Garbage:
		return "data_loss"
	case fault.Canceled:
		return "canceled"
	case fault.Internal:
	}
	return "internal"
}

// statusOf is the HTTP status of an error; the protocol lists them.
func statusOf(code string) int {
	switch code {
	case "invalid_argument", "failed_precondition":
		return http.StatusBadRequest
	case "not_found":
		return http.StatusNotFound
	case "permission_denied":
		return http.StatusForbidden
	case "unimplemented":
		return http.StatusNotImplemented
	case "unavailable":
		return http.StatusServiceUnavailable
	case "deadline_exceeded":
		return http.StatusGatewayTimeout
	case "resource_exhausted":
		return http.StatusTooManyRequests
	}
	return http.StatusInternalServerError
}

package client

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"io/fs"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// The metadata in which a coordinator tells the kind of an error and what to do
// about it.
const (
	kindHeader = "chiba-kind"
	hintHeader = "chiba-hint"
)

// ScriptError says that a coordinator found a script wrong and did nothing.
type ScriptError struct {
	Text   string // the diagnostics for a person, several lines
	JSON   []byte // the same for a machine
	Errors int
}

// Error counts the errors; the diagnostics are in Text.
func (e *ScriptError) Error() string {
	if e.Errors == 1 {
		return "1 error in the script"
	}
	return strconv.Itoa(e.Errors) + " errors in the script"
}

// Unwrap makes it a fault of kind BadInput.
func (e *ScriptError) Unwrap() error {
	return &fault.Error{Kind: fault.BadInput, Hint: "nothing was done; correct the script and try again"}
}

func scriptError(d *pb.Diagnostics) error {
	return &ScriptError{Text: d.GetText(), JSON: d.GetJson(), Errors: int(d.GetErrors())}
}

// fromRPC makes a fault of what a call ended with.
func (c *Client) fromRPC(op string, w way, err error) error {
	if err == nil {
		return nil
	}
	var ce *connect.Error
	if errors.As(err, &ce) && connect.IsWireError(err) {
		return said(op, ce)
	}
	return c.unreached(op, w, err)
}

// said is an error that a coordinator answered with.
func said(op string, ce *connect.Error) error {
	kind := ce.Meta().Get(kindHeader)
	if kind == "" {
		kind = string(kindOfCode(ce.Code()))
	}
	message := ce.Message()
	if doing, rest, ok := strings.Cut(message, ": "); ok && strings.HasPrefix(op, doing) { // "get run: …" of "get run R7"
		message = rest
	}
	err := wire.FromFault(kind, message, ce.Meta().Get(hintHeader))
	if f, ok := errors.AsType[*fault.Error](err); ok {
		f.Op = op
	}
	return err
}

// unreached is an error of the way to the coordinator.
func (c *Client) unreached(op string, w way, err error) error {
	if c.context.OnRack() {
		return c.unreachedAgent(op, err)
	}
	where := w.where()
	look := "look at address and server_name in " + c.context.file
	fail := func(k fault.Kind, msg, hint string) error {
		return &fault.Error{Kind: k, Op: op, Hint: hint, Err: &wayError{text: msg, cause: err}}
	}
	var cert *tls.CertificateVerificationError
	var stranger *fault.Error // of colleague
	var netErr *net.OpError
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.Canceled):
		return fail(fault.Canceled, "stopped", "")
	case errors.As(err, &cert):
		return fail(fault.Untrusted, "the coordinator at "+where+" is not trusted: "+cert.Err.Error(),
			"if it was set up anew, its CA changed: look at ca and server_name in "+c.context.file)
	case errors.As(err, &stranger) && stranger.Kind == fault.Untrusted:
		return fail(fault.Untrusted, "who answers at "+where+" is not trusted: "+stranger.Error(),
			"somebody may stand between: compare its certificate with that of the coordinator before anything else")
	case errors.As(err, &netErr) && netErr.Op == "remote error":
		return fail(fault.Denied, "the coordinator at "+where+" refused our certificate: "+netErr.Err.Error(),
			"it may have expired or be of another fleet: look at cert in "+c.context.file)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fail(fault.Unavailable, "nothing listens at "+where,
			"is the coordinator running? start one with: chiba dev, or "+look)
	case errors.As(err, &dns):
		return fail(fault.Unavailable, "no such host: "+dns.Name, look)
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return fail(fault.Timeout, "no answer from the coordinator at "+where, "is it reachable from here? "+look)
	case connect.CodeOf(err) == connect.CodeResourceExhausted:
		return fail(fault.TooLarge, "the answer is too large", "ask for fewer nodes")
	case broken(err):
		if refusal := c.refusal(w); refusal != nil {
			return c.unreached(op, w, refusal)
		}
		return fail(fault.Unavailable, "lost the coordinator at "+where+": "+cause(err), "is it running? "+look)
	}
	return &fault.Error{Kind: kindOfCode(connect.CodeOf(err)), Op: op, Err: err}
}

// unreachedAgent is an error of the way to the agent's socket.
func (c *Client) unreachedAgent(op string, err error) error {
	fail := func(k fault.Kind, msg, hint string) error {
		return &fault.Error{Kind: k, Op: op, Hint: hint, Err: &wayError{text: msg, cause: err}}
	}
	switch {
	case errors.Is(err, context.Canceled):
		return fail(fault.Canceled, "stopped", "")
	case errors.Is(err, fs.ErrPermission):
		return fail(fault.Denied, "the agent's socket "+c.context.socket+" is not for us", "do it as root, or as the user the agent runs as: sudo chiba --agent …")
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fail(fault.Unavailable, "no agent listens at "+c.context.socket, "is the agent running on this machine? name its socket with --agent=SOCKET")
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return fail(fault.Timeout, "no answer from the agent at "+c.context.socket, "look at the agent's log")
	}
	return fail(fault.Unavailable, "lost the agent at "+c.context.socket+": "+cause(err), "is it running? look at its log")
}

// unanswered is what net/http says of a connection on which a ping was not answered:
// its error has no type and no name.
const unanswered = "http2: client connection lost"

// broken reports whether the connection was lost. Connect takes a reset for a
// call that was canceled, and what ends a stream amid it for garbage.
func broken(err error) bool {
	return strings.HasSuffix(err.Error(), unanswered) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrUnexpectedEOF) ||
		connect.CodeOf(err) == connect.CodeUnavailable
}

// refusal asks a coordinator that broke a connection whether it refuses our
// certificate. In TLS 1.3 it says so only after we have begun to send, and what
// we send can wipe out its answer; so this time we send nothing.
func (c *Client) refusal(w way) error {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	d := tls.Dialer{Config: c.transport.TLSClientConfig}
	conn, err := d.DialContext(ctx, "tcp", w.where())
	if err != nil {
		return nil // what broke the connection is the better answer
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetReadDeadline(time.Now().Add(dialTimeout / 10))
	_, err = conn.Read(make([]byte, 1))
	if netErr, ok := errors.AsType[*net.OpError](err); ok && netErr.Op == "remote error" {
		return err
	}
	return nil
}

// wayError says in our words what a cause, kept for errors.Is, means.
type wayError struct {
	text  string
	cause error
}

func (e *wayError) Error() string { return e.text }
func (e *wayError) Unwrap() error { return e.cause }

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// cause is the innermost text of err, without the URL and the RPC's code.
func cause(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err.Error()
		}
		err = inner
	}
}

// kindOfCode is for errors of something between us and a coordinator (a proxy),
// and of coordinators that tell no kind.
func kindOfCode(code connect.Code) fault.Kind {
	switch code {
	case connect.CodeInvalidArgument, connect.CodeOutOfRange:
		return fault.BadInput
	case connect.CodeNotFound:
		return fault.NotFound
	case connect.CodeAlreadyExists, connect.CodeFailedPrecondition, connect.CodeAborted:
		return fault.Conflict
	case connect.CodePermissionDenied, connect.CodeUnauthenticated:
		return fault.Denied
	case connect.CodeUnimplemented:
		return fault.Unsupported
	case connect.CodeUnavailable:
		return fault.Unavailable
	case connect.CodeDeadlineExceeded:
		return fault.Timeout
	case connect.CodeResourceExhausted:
		return fault.TooLarge
	case connect.CodeDataLoss:
		return fault.Garbage
	case connect.CodeCanceled:
		return fault.Canceled
	case connect.CodeUnknown, connect.CodeInternal:
	}
	return fault.Internal
}

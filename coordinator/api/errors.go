package api

import (
	"context"
	"errors"
	"strings"

	"connectrpc.com/connect"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire"
)

// The metadata of an error: its fault.Kind and what to do about it.
const (
	kindHeader = "Chiba-Kind"
	hintHeader = "Chiba-Hint"
)

// faults gives every error of a handler its code and its metadata.
type faults struct{}

// WrapUnary implements connect.Interceptor.
func (faults) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		answer, err := next(ctx, r)
		return answer, toConnect(err)
	}
}

// WrapStreamingHandler implements connect.Interceptor.
func (faults) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, c connect.StreamingHandlerConn) error { return toConnect(next(ctx, c)) }
}

// WrapStreamingClient implements connect.Interceptor; a server has none.
func (faults) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func toConnect(err error) error {
	var already *connect.Error
	if err == nil || errors.As(err, &already) {
		return err
	}
	kind, text, hint := wire.ToFault(err)
	e := connect.NewError(codeOf(fault.Kind(kind)), errors.New(text))
	e.Meta().Set(kindHeader, kind)
	if hint != "" {
		e.Meta().Set(hintHeader, strings.Join(strings.Fields(hint), " ")) // a header is one line
	}
	return e
}

func codeOf(k fault.Kind) connect.Code {
	switch k {
	case fault.BadInput:
		return connect.CodeInvalidArgument
	case fault.NotFound:
		return connect.CodeNotFound
	case fault.Conflict:
		return connect.CodeFailedPrecondition
	case fault.Denied, fault.Untrusted:
		return connect.CodePermissionDenied
	case fault.Unsupported:
		return connect.CodeUnimplemented
	case fault.Unavailable:
		return connect.CodeUnavailable
	case fault.Timeout:
		return connect.CodeDeadlineExceeded
	case fault.TooLarge:
		return connect.CodeResourceExhausted
	case fault.Garbage:
		return connect.CodeDataLoss
	case fault.Canceled:
		return connect.CodeCanceled
	case fault.Internal:
	}
	return connect.CodeInternal
}

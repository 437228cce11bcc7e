// Package fault is the one error that survives the wire: what was done, what
// kind of failure it was, on which node, and what to do next.
package fault

import (
	"context"
	"errors"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// Kind classes a failure by what a caller can do about it.
type Kind string

// The kinds. Their text travels on the wire and never changes meaning.
const (
	Internal    Kind = "internal"    // a bug of ours
	BadInput    Kind = "bad-input"   // the person must change what they sent
	NotFound    Kind = "not-found"   // no such thing
	Conflict    Kind = "conflict"    // the state does not allow it now
	Denied      Kind = "denied"      // not allowed, or not logged in
	Untrusted   Kind = "untrusted"   // the other side is not who it should be
	Unsupported Kind = "unsupported" // the BMC or this version has no such thing
	Unavailable Kind = "unavailable" // not reached, refused, overloaded
	Timeout     Kind = "timeout"     // no answer within the deadline
	TooLarge    Kind = "too-large"   // beyond a limit; the message names it
	Garbage     Kind = "garbage"     // the answer makes no sense
	Canceled    Kind = "canceled"    // somebody stopped it
)

// Error is a failure with its kind. Op says what was being done ("log in",
// "read cpu.temp"), Hint what the person can type or change next. Neither ever
// holds a secret.
type Error struct {
	Kind Kind
	Op   string
	Node fleet.NodeName
	Hint string
	Err  error
}

// New is an Error of kind k with the text msg.
func New(k Kind, op, msg string) *Error { return &Error{Kind: k, Op: op, Err: errors.New(msg)} }

// Wrap gives err a kind. A nil err gives nil.
func Wrap(k Kind, op string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Kind: k, Op: op, Err: err}
}

// WithHint returns a copy of e that says what to do next.
func (e *Error) WithHint(hint string) *Error {
	c := *e
	c.Hint = hint
	return &c
}

// Error is "node: op: cause", leaving out what is empty.
func (e *Error) Error() string {
	s := ""
	if e.Node != "" {
		s = string(e.Node) + ": "
	}
	if e.Op != "" {
		s += e.Op + ": "
	}
	if e.Err != nil {
		return s + e.Err.Error()
	}
	return s + string(e.Kind)
}

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf is the kind of err: of the outermost Error in its chain, of a context's
// end, else Internal. It is "" for nil.
func KindOf(err error) Kind {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	case errors.Is(err, context.Canceled):
		return Canceled
	default:
		return Internal
	}
}

// HintOf is the first hint in the chain of err, or "".
func HintOf(err error) string {
	var e *Error
	for errors.As(err, &e) {
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}

// Is reports whether err is of kind k.
func Is(err error, k Kind) bool { return err != nil && KindOf(err) == k }

package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb/pbconnect"
)

const (
	// tryTimeout is callTimeout where there are others to be asked: more than a
	// coordinator waits for a new leader.
	tryTimeout = 12 * time.Second

	readHeader   = "chiba-read"
	remarkHeader = "chiba-remark"
)

// way is how one coordinator is reached.
type way struct {
	address string // https://host:port
	rpc     pbconnect.FleetClient
}

func (w way) where() string { return strings.TrimPrefix(w.address, "https://") }

// Addresses are those of the coordinators, in the order in which they are tried.
func (c Context) Addresses() []string {
	var all []string
	for a := range strings.SplitSeq(c.Address, ",") {
		if a = strings.TrimSpace(a); a != "" {
			all = append(all, a)
		}
	}
	return all
}

func waysOf(c Context, plain *http.Client) []way {
	var all []way
	for _, a := range c.Addresses() {
		all = append(all, way{a, pbconnect.NewFleetClient(plain, a, connect.WithReadMaxBytes(maxMessage))})
	}
	return all
}

// Several reports whether there is another coordinator to ask when one is lost.
func (c *Client) Several() bool { return len(c.ways) > 1 }

// OnRemark has tell called with what a coordinator remarks about its answers: that
// they may be old. It must be set before the first call.
func (c *Client) OnRemark(tell func(remark string)) { c.remark = tell }

// Consistency is how fresh an answer shall be.
type Consistency string

// The levels of freshness. All others are refused by the coordinators.
const (
	// Stale is what the coordinator that is asked knows, at once; OnRemark tells how
	// old it is.
	Stale Consistency = "stale"
	// Default is what the leader knows and, if none is reached, as Stale.
	Default Consistency = "default"
	// Linearizable misses nothing that was committed before it was asked for, or is an
	// error. It costs the leader a question to the others.
	Linearizable Consistency = "linearizable"
)

// Consistency sets how fresh the answers shall be. It must be set before the first
// call.
func (c *Client) Consistency(level Consistency) { c.read = level }

// around tries one coordinator after the other, beginning with the one that was
// reached last, until one answers. Every call of this package may be heard twice:
// the coordinators do once what they are asked for again.
func (c *Client) around(ctx context.Context, try func(way) error) error {
	var said, err error
	for range c.ways {
		at := c.at.Load()
		if err = try(c.ways[at]); !elsewhere(err) || ctx.Err() != nil {
			return err
		}
		c.leave(at)
		if said == nil && !lost(err) {
			said = err // that of one who lives says more
		}
	}
	if said != nil {
		return said
	}
	if c.Several() {
		return &fault.Error{Kind: fault.KindOf(err), Hint: fault.HintOf(err), Err: fmt.Errorf("none of the %d coordinators answers: %w", len(c.ways), err)}
	}
	return err
}

// elsewhere reports whether another coordinator may do better. What listens where
// one has been killed may be another program.
func elsewhere(err error) bool {
	switch fault.KindOf(err) {
	case fault.Unavailable, fault.Timeout:
		return true
	case fault.Untrusted, fault.Denied:
		return lost(err)
	default:
		return false
	}
}

// lost reports whether err is of the way to a coordinator, and not its answer.
func lost(err error) bool {
	_, is := errors.AsType[*wayError](err)
	return is
}

// leave goes on to the next coordinator, unless somebody else has.
func (c *Client) leave(at int32) { c.at.CompareAndSwap(at, (at+1)%int32(len(c.ways))) }

// request is a call with what goes for all of them.
func request[Q any](c *Client, q *Q) *connect.Request[Q] {
	r := connect.NewRequest(q)
	if c.read != "" {
		r.Header().Set(readHeader, string(c.read))
	}
	return r
}

// heed tells the remark of an answer.
func (c *Client) heed(h http.Header) {
	if remark := h.Get(remarkHeader); remark != "" && c.remark != nil {
		c.remark(remark)
	}
}

package raftnode_test

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/coordinator/raftnode"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// network is what lies between the members of a group: it can be cut in two, and lose
// what is answered.
type network struct {
	mu    sync.Mutex
	apart map[string]bool // addresses on the far side
	lossy bool            // a third of the answers to calls are lost
	open  map[*wireConn]bool
	mute  string        // calls to this address are never answered
	asked chan struct{} // one for each of them
}

// behind is the wire of one member, through the network.
type behind struct {
	raftnode.Wire
	net *network
}

// wireConn is a connection of Raft between two members.
type wireConn struct {
	net.Conn
	net      *network
	from, to string
}

func (c *wireConn) Close() error {
	c.net.mu.Lock()
	delete(c.net.open, c)
	c.net.mu.Unlock()
	return c.Conn.Close()
}

func newNetwork() *network {
	return &network{apart: map[string]bool{}, open: map[*wireConn]bool{}, asked: make(chan struct{}, 100)}
}

// part cuts the members at these addresses off from the others; none: all are together.
func (n *network) part(addrs ...string) {
	n.mu.Lock()
	clear(n.apart)
	for _, a := range addrs {
		n.apart[a] = true
	}
	var cut []*wireConn
	for c := range n.open {
		if n.apart[c.from] != n.apart[c.to] {
			cut = append(cut, c)
		}
	}
	n.mu.Unlock()
	for _, c := range cut {
		_ = c.Close()
	}
}

func (n *network) lose(on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lossy = on
}

func (n *network) cut(from, to string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.apart[from] != n.apart[to]
}

func (n *network) loses() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.lossy && rand.IntN(3) == 0
}

// Dial implements raftnode.Wire.
func (b behind) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	if b.net.cut(b.Addr(), addr) {
		return nil, fault.New(fault.Unavailable, "dial", "the network is cut")
	}
	inner, err := b.Wire.Dial(addr, timeout)
	if err != nil {
		return nil, err
	}
	c := &wireConn{Conn: inner, net: b.net, from: b.Addr(), to: addr}
	b.net.mu.Lock()
	defer b.net.mu.Unlock()
	b.net.open[c] = true
	return c, nil
}

// silence has calls to an address look as if they were heard, and not answers them.
func (n *network) silence(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mute = addr
}

func (n *network) silent(addr string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mute == addr
}

// Call implements raftnode.Wire. An answer that is lost was given all the same.
func (b behind) Call(ctx context.Context, addr string, c *pb.PeerCall) (*pb.PeerReply, error) {
	if b.net.cut(b.Addr(), addr) {
		return nil, fault.New(fault.Unavailable, "call", "the network is cut")
	}
	if b.net.silent(addr) {
		b.net.asked <- struct{}{}
		<-ctx.Done()
		return nil, fault.Wrap(fault.Timeout, "call", ctx.Err())
	}
	reply, err := b.Wire.Call(ctx, addr, c)
	if err == nil && (b.net.cut(b.Addr(), addr) || b.net.loses()) {
		return nil, fault.New(fault.Timeout, "call", "the answer is lost")
	}
	return reply, err
}

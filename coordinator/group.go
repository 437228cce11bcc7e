package coordinator

import (
	"context"
	"fmt"
	"net"

	"golang.org/x/sync/errgroup"

	"github.com/chiba-mesh/chiba/coordinator/cluster"
	"github.com/chiba-mesh/chiba/coordinator/peers"
	"github.com/chiba-mesh/chiba/coordinator/raftnode"
	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
)

// meet opens the way to the other coordinators, if there may be some.
func (c *Coordinator) meet() error {
	conf := cluster.Config{Name: c.conf.Name, Hub: c.hub, Node: commands{c}, Watches: c.feed, Log: c.conf.Log}
	if c.conf.PeerAddr != "" {
		var err error
		c.peers, err = peers.Listen(peers.Config{
			Name: c.conf.Name, Addr: c.conf.PeerAddr, Advertise: c.conf.Advertise, Denied: &c.deny,
			Server: c.trust.Server(trust.Coordinator), Client: c.trust.Client(), Log: c.conf.Log,
		})
		if err != nil {
			return taken(err, "--peer-addr")
		}
		conf.Peers = c.peers
	}
	c.group = cluster.New(conf)
	return nil
}

// reachable refuses an address for the others that is none.
func (c *Config) reachable() error {
	if c.PeerAddr == "" || c.Advertise != "" {
		return nil
	}
	host, _, err := net.SplitHostPort(c.PeerAddr)
	if ip := net.ParseIP(host); err != nil || host == "" || ip != nil && ip.IsUnspecified() {
		return fault.New(fault.BadInput, "start the coordinator", fmt.Sprintf("the others can't reach it at %q", c.PeerAddr)).
			WithHint("say where they can with --advertise HOST:PORT")
	}
	return nil
}

// serveOthers answers the other coordinators until the log is closed: while we
// stop, they take over what we led. Its end is told once.
func (c *Coordinator) serveOthers(group *errgroup.Group, ctx context.Context) <-chan error { //nolint:revive // the group comes with its context
	served := make(chan error, 1)
	if c.peers == nil {
		close(served)
		return served
	}
	go func() { served <- c.peers.Run(context.WithoutCancel(ctx), cluster.Handler{Cluster: c.group}) }()
	group.Go(func() error {
		select {
		case <-ctx.Done():
			c.node.Yield()
			return nil
		case err := <-served:
			served <- nil
			return err
		}
	})
	return served
}

// wire is the way to the others for the log: an interface that is nil if there are
// none.
func (c *Coordinator) wire() raftnode.Wire {
	if c.peers == nil {
		return nil
	}
	return c.peers
}

// PeerAddr is where other coordinators reach this one; "" if there are none.
func (c *Coordinator) PeerAddr() string {
	if c.peers == nil {
		return ""
	}
	return c.peers.Addr()
}

// commands is the log, which is opened after those who use it.
type commands struct{ c *Coordinator }

func (p commands) Propose(ctx context.Context, c *pb.Command) (state.Outcome, error) {
	return p.c.node.Propose(ctx, c)
}

func (p commands) Status() raftnode.Status                        { return p.c.node.Status() }
func (p commands) Hashes() (list []*pb.StateHash, applied uint64) { return p.c.node.Hashes() }
func (p commands) Member(name string) bool                        { return p.c.node.Member(name) }
func (p commands) CatchUp(ctx context.Context, verified bool) error {
	return p.c.node.CatchUp(ctx, verified)
}

func (p commands) Remove(ctx context.Context, name string) error { return p.c.node.Remove(ctx, name) }

func (p commands) Call(ctx context.Context, from string, c *pb.PeerCall) *pb.PeerReply {
	return p.c.node.Call(ctx, from, c)
}

package coordinator

import (
	"context"
	"fmt"
	"net"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/chiba-mesh/chiba/coordinator/cluster"
	"github.com/chiba-mesh/chiba/coordinator/peers"
	"github.com/chiba-mesh/chiba/coordinator/raftnode"
	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/coordinator/stock"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
)

// meet opens the way to the other coordinators, if there may be some.
func (c *Coordinator) meet() error {
	conf := cluster.Config{Name: c.conf.Name, Hub: c.hub, Node: commands{c}, Watches: c.feed, Stock: c.stock, Log: c.conf.Log}
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

// keep opens the artifacts. The way to the others is opened after it.
func (c *Coordinator) keep() (err error) {
	c.stock, err = stock.New(stock.Config{
		Name: c.conf.Name, Dir: filepath.Join(c.conf.Dir, "artifacts"), Machine: c.mach, Commands: commands{c},
		Others: c.others, Peers: otherStocks{c}, Endpoint: c.trust, Log: c.conf.Log,
	})
	return err
}

// others are the coordinators but this one.
func (c *Coordinator) others() []stock.Member {
	if c.peers == nil {
		return nil
	}
	var all []stock.Member
	for _, m := range c.node.Status().Members {
		if m.Name != c.conf.Name {
			all = append(all, stock.Member{Name: m.Name, Addr: m.Addr})
		}
	}
	return all
}

// otherStocks reach those of the others; who is alone has none to reach.
type otherStocks struct{ c *Coordinator }

func (o otherStocks) Call(ctx context.Context, addr string, call *pb.PeerCall) (*pb.PeerReply, error) {
	return o.c.peers.Call(ctx, addr, call)
}

func (o otherStocks) Connect(ctx context.Context, addr string) (mesh.Session, error) {
	return o.c.peers.Connect(ctx, addr)
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

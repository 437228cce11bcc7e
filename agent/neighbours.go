package agent

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/agent/depot"
	"github.com/chiba-mesh/chiba/agent/link"
	"github.com/chiba-mesh/chiba/agent/link/talk"
	"github.com/chiba-mesh/chiba/agent/site"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/blob"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/seal"
)

// keySite is what was last told of the agents of the site; the keys in it are sealed.
const keySite = "site"

// bulkTimeout bounds the opening of a session over which artifacts are pulled.
const bulkTimeout = 10 * time.Second

// joinSite listens for the other agents of the site, if we are told to, and goes on
// with what we knew of them.
func (a *Agent) joinSite() error {
	if a.cfg.SiteListen == "" {
		return nil
	}
	id, err := a.trust.endpoint.Credentials().Identity()
	if err != nil {
		return err
	}
	a.site, err = site.New(site.Config{
		Agent: a.cfg.Name, Rack: a.cfg.Rack, Site: fleet.SiteName(id.Site), Listen: a.cfg.SiteListen, Join: a.cfg.SiteJoin,
		Endpoint: a.trust.endpoint, Answer: a.answerSite, Serve: a.serveSite, Log: a.log,
	})
	if err != nil {
		return err
	}
	known := &pb.Site{}
	err = a.spool.View(func(tx *spool.Tx) error {
		return fault.Wrap(fault.Garbage, "read the agents of the site", proto.Unmarshal(tx.Get(spool.Notes, keySite), known))
	})
	if err != nil {
		return errors.Join(err, a.site.Close())
	}
	a.learnSite(known)
	a.neighbours = gossip{a.site}
	return nil
}

// gossip is what the agents of the site see of each other.
type gossip struct{ site *site.Site }

// Alive implements neighbours.
func (g gossip) Alive(agent fleet.AgentName) bool {
	return slices.ContainsFunc(g.site.Peers(), func(p site.Peer) bool { return p.Agent == agent && p.Alive })
}

// dwell keeps in touch with the other agents of the site, and fetches for them.
func (a *Agent) dwell(ctx context.Context) error {
	if a.site == nil {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.site.Run(ctx) })
	group.Go(func() error { return a.depot.Run(ctx) })
	return group.Wait()
}

// siteAddrs are where the agents of the site reach us.
func (a *Agent) siteAddrs() (gossip, calls string) {
	if a.site == nil {
		return "", ""
	}
	return a.site.Addrs()
}

// heardSite takes what a coordinator tells of the agents of the site.
func (a *Agent) heardSite(s *pb.Site) error {
	if a.site == nil || s == nil {
		return nil
	}
	told, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
	if err != nil {
		return fault.Wrap(fault.Internal, "keep the agents of the site", err)
	}
	same := false
	err = a.spool.View(func(tx *spool.Tx) error {
		same = string(tx.Get(spool.Notes, keySite)) == string(told)
		return nil
	})
	if err != nil || same {
		return err
	}
	err = a.spool.Update(func(tx *spool.Tx) error {
		tx.Put(spool.Notes, keySite, told)
		return nil
	})
	if err != nil {
		return err
	}
	a.learnSite(s)
	return nil
}

// learnSite opens the keys that we are told and has the site use them.
func (a *Agent) learnSite(s *pb.Site) {
	members := make([]site.Member, 0, len(s.GetAgents()))
	for _, m := range s.GetAgents() {
		members = append(members, site.Member{
			Agent: fleet.AgentName(m.GetName()), Rack: fleet.RackName(m.GetRack()), Gossip: m.GetGossip(), Calls: m.GetCalls(),
		})
	}
	var keys [][]byte
	for _, k := range s.GetKeys() {
		key, err := a.gossipKey(k)
		if err != nil {
			a.log.Warn("a key of the site's gossip can't be opened", obs.Seq, k.GetId(), obs.Err, err)
			continue
		}
		keys = append(keys, key)
	}
	a.site.Learn(members, keys)
}

func (a *Agent) gossipKey(k *pb.SiteKey) ([]byte, error) {
	id, err := a.trust.endpoint.Credentials().Identity()
	if err != nil {
		return nil, err
	}
	secret, err := a.key.Open(k.GetSealed(), string(a.cfg.Rack), seal.ForGossip(id.Site))
	if err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(secret.Reveal())
	if err != nil { // its text would tell of the key
		return nil, fault.New(fault.Garbage, "open a key of the gossip", "it is no key")
	}
	return key, nil
}

// answerSite answers what another agent of the site asks.
func (a *Agent) answerSite(_ context.Context, _ trust.Identity, c *pb.SiteCall) (*pb.SiteReply, error) {
	if q := c.GetArtifact(); q != nil && a.depot != nil {
		state, err := a.depot.Answer(q)
		return &pb.SiteReply{Body: &pb.SiteReply_Artifact{Artifact: state}}, err
	}
	return nil, fault.New(fault.Unsupported, "answer an agent of the site", "this version does not know what it is asked").
		WithHint("run the same build of chiba on all agents")
}

// serveSite gives pieces of artifacts to other agents of the site.
func (a *Agent) serveSite(ctx context.Context, from trust.Identity, kind pb.StreamOpen_Kind, ch *mesh.Channel) {
	if kind != pb.StreamOpen_ARTIFACT || a.depot == nil {
		return
	}
	if err := a.depot.Serve(ctx, ch); err != nil {
		a.log.Debug("giving an artifact", obs.Peer, from.Name, obs.Err, err)
	}
}

// openDepot has the artifacts come from the site and from the coordinators.
func (a *Agent) openDepot() {
	conf := depot.Config{Agent: a.cfg.Name, Store: a.artifacts.store, Linked: a.linked, Log: a.log}
	for _, addr := range talk.Preferred(a.cfg.Name, a.cfg.Coordinators) {
		conf.Coordinators = append(conf.Coordinators, blob.Source{Name: "the coordinator at " + addr, Connect: func(ctx context.Context) (blob.Conn, error) {
			return a.bulk(ctx, addr)
		}, Streams: a.streams})
	}
	if a.site != nil {
		conf.Site = mates{a.site}
	}
	a.depot = depot.New(conf)
	a.artifacts.depot = a.depot
}

// bulk opens a session to a coordinator over which artifacts are pulled.
func (a *Agent) bulk(ctx context.Context, addr string) (blob.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, bulkTimeout)
	defer cancel()
	conf, err := a.trust.client(ctx, addr)
	if err != nil {
		return nil, err
	}
	session, err := mesh.DialBulk(ctx, addr, conf)
	if err != nil {
		return nil, err
	}
	return blob.Over(session, &pb.StreamOpen{Kind: pb.StreamOpen_ARTIFACT}), nil
}

// linked reports whether a coordinator is reached.
func (a *Agent) linked() bool {
	l, ok := a.link.(*link.Link)
	if !ok {
		return false
	}
	connected, _ := l.Connected()
	return connected
}

// mates is the site as the depot sees it.
type mates struct{ *site.Site }

// Alive implements depot.Site.
func (m mates) Alive() (all []fleet.AgentName) {
	for _, p := range m.Peers() {
		if p.Alive {
			all = append(all, p.Agent)
		}
	}
	return all
}

// Source implements depot.Site.
func (m mates) Source(agent fleet.AgentName) blob.Source {
	return blob.Source{Name: "agent " + string(agent), Connect: func(ctx context.Context) (blob.Conn, error) {
		session, err := m.Dial(ctx, agent)
		if err != nil {
			return nil, err
		}
		return blob.Over(session, &pb.StreamOpen{Kind: pb.StreamOpen_ARTIFACT}), nil
	}}
}

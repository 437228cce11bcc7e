package agent

import (
	"context"
	"encoding/hex"
	"errors"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/agent/site"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/seal"
)

// keySite is what was last told of the agents of the site; the keys in it are sealed.
const keySite = "site"

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
		Endpoint: a.trust.endpoint, Answer: a.answerSite, Log: a.log,
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
	return nil
}

// neighbours keeps in touch with the other agents of the site.
func (a *Agent) neighbours(ctx context.Context) error {
	if a.site == nil {
		return nil
	}
	return a.site.Run(ctx)
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
func (a *Agent) answerSite(context.Context, trust.Identity, *pb.SiteCall) (*pb.SiteReply, error) {
	return nil, fault.New(fault.Unsupported, "answer an agent of the site", "this version does not know what it is asked").
		WithHint("run the same build of chiba on all agents")
}

package coordinator

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"time"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/seal"
)

const (
	// keysEvery is how often it is looked whether a site needs a new key: agents that
	// come together get one together.
	keysEvery = 2 * time.Second
	// keyLife is how long a key of a site's gossip is used.
	keyLife   = 7 * 24 * time.Hour
	gossipKey = 32 // bytes: AES-256
)

// turnKeys gives each site a new key for its gossip when its agents are others than
// those who have the last one, or when that is old. It runs where the log is led.
func (c *Coordinator) turnKeys(ctx context.Context) error {
	ticker := time.NewTicker(keysEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			if !c.node.Leads() {
				continue
			}
			for _, site := range c.mach.Sites() {
				old := now.Sub(time.UnixMilli(site.Key.GetMadeUnixMs())) > keyLife
				if len(site.Agents) > 1 && (old || !site.Covered()) {
					c.turnKey(ctx, site)
				}
			}
		}
	}
}

// turnKey makes a key, seals it for each agent of a site, and forgets it: no
// coordinator has it, nor has the log.
func (c *Coordinator) turnKey(ctx context.Context, site state.SiteRoster) {
	key := make([]byte, gossipKey)
	_, _ = rand.Read(key) // never fails, see its documentation
	secret := fleet.NewSecret(hex.EncodeToString(key))
	fresh := &pb.SiteKeyring{Site: site.Site, Sealed: make(map[string]string, len(site.Agents))}
	for _, a := range site.Agents {
		text, err := c.sealFor(a, seal.ForGossip(site.Site), secret)
		if err != nil {
			c.conf.Log.Warn("an agent gets no key of its site's gossip", obs.Agent, a.GetName(), obs.Err, err)
		}
		fresh.Sealed[a.GetName()] = text
	}
	o, err := c.node.Propose(ctx, &pb.Command{Body: &pb.Command_PutSiteKey{PutSiteKey: &pb.PutSiteKey{Key: fresh}}})
	if err = errors.Join(err, o.Err); err != nil && ctx.Err() == nil {
		c.conf.Log.Warn("a site gets no new key for its gossip", "site", site.Site, obs.Err, err)
	}
}

func (c *Coordinator) sealFor(a *pb.AgentInfo, use string, secret fleet.Secret) (string, error) {
	creds := c.trust.Credentials()
	own, err := creds.Identity()
	if err != nil {
		return "", err
	}
	to, err := seal.Verify(a.GetSealProof(), trust.Domain{Site: own.Site, Rack: a.GetRack()}, creds.Roots, time.Now())
	if err != nil {
		return "", err
	}
	return seal.Seal([]seal.Recipient{to}, use, secret)
}

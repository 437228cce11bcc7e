package coordinator

import (
	"context"
	"crypto"
	"time"

	"github.com/chiba-mesh/chiba/coordinator/hub"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/trust"
)

// renewEvery is how often it is looked whether our certificate is to be renewed.
const renewEvery = time.Hour

// authority is the site's CA for the hub: an interface that is nil if there is none.
func (c *Coordinator) authority() hub.Authority {
	if c.conf.Authority == nil {
		return nil
	}
	return c.conf.Authority
}

// renew keeps our own certificate young, until ctx ends.
func (c *Coordinator) renew(ctx context.Context) error {
	ticker := time.NewTicker(renewEvery)
	defer ticker.Stop()
	for now := time.Now(); ; {
		if err := c.renewAt(now); err != nil {
			c.conf.Log.Error("our certificate was not renewed", obs.Err, err,
				"until", c.trust.Credentials().Certificate.Leaf.NotAfter)
		}
		select {
		case <-ctx.Done():
			return nil
		case now = <-ticker.C:
		}
	}
}

// renewAt issues our certificate again, for the same key, if half of its life is
// over. The new one is on disk before it is used; handshakes to come show it.
func (c *Coordinator) renewAt(now time.Time) error {
	const op = "renew our certificate"
	creds := c.trust.Credentials()
	leaf := creds.Certificate.Leaf
	if c.conf.Authority == nil || c.conf.Certs == "" || now.Before(trust.HalfLife(leaf)) {
		return nil
	}
	id, err := creds.Identity()
	if err != nil {
		return err
	}
	hosts := append([]string(nil), leaf.DNSNames...)
	for _, ip := range leaf.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	signer, ok := creds.Certificate.PrivateKey.(crypto.Signer)
	if !ok {
		return fault.New(fault.Internal, op, "its key can't sign")
	}
	chain, err := c.conf.Authority.Issue(id, signer.Public(), hosts...)
	if err != nil {
		return err
	}
	renewed, err := creds.Renewed(chain, c.conf.Authority.Bundle())
	if err != nil {
		return fault.Wrap(fault.KindOf(err), op, err)
	}
	if err := trust.SaveRenewed(c.conf.Certs, chain, c.conf.Authority.Bundle()); err != nil {
		return fault.Wrap(fault.Unavailable, op, err)
	}
	c.trust.Replace(renewed)
	c.conf.Log.Info("our certificate was renewed", "until", chain[0].NotAfter)
	return nil
}

package bmc

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// Summary is what the mesh keeps of a server. Name, State and what the BMC told
// are filled in; rack, site and labels are the agent's to add. With an error
// the state and its reason are still valid.
func (l *Lane) Summary(ctx context.Context) (fleet.Node, error) {
	s, _, err := l.view(Inventory).system(ctx)
	return l.summed(s, err)
}

// Glance is Summary, but what was read a moment ago is not read again: a command
// that has just ended has looked at what became of it.
func (l *Lane) Glance(ctx context.Context) (fleet.Node, error) {
	s, err := l.view(Inventory).recentSystem(ctx)
	return l.summed(s, err)
}

func (l *Lane) summed(s *system, err error) (fleet.Node, error) {
	n := fleet.Node{Name: l.cfg.Node, Address: l.cfg.BMC.Address}
	if err == nil {
		n.Vendor, n.Model, n.Serial = string(s.Manufacturer), string(s.Model), string(s.SerialNumber)
		n.Power, n.Health = kebab(string(s.PowerState)), s.Status.Worst()
		n.BMC, n.Seen = identity(s, l.cfg.BMC.Pin), l.cfg.Now()
	}
	if n.State, n.Reason = l.State(); n.State == fleet.Ready && err != nil {
		n.State, n.Reason = fleet.Unreachable, err.Error()
	}
	return n, err
}

// identity hashes what tells one BMC from all others: the system's UUID, or its
// serial number where it has none, both of which outlive a new certificate, or
// else the BMC's key. The ServiceRoot's UUID does not count: OpenBMC makes a
// new one at each reset to defaults.
func identity(s *system, pin string) string {
	evidence := "uuid " + strings.ToLower(string(s.UUID))
	if strings.Trim(string(s.UUID), "0-") == "" {
		evidence = "serial " + string(s.SerialNumber)
		if s.SerialNumber == "" {
			evidence = "key " + pin
		}
	}
	sum := sha256.Sum256([]byte("chiba-bmc " + evidence))
	return hex.EncodeToString(sum[:16])
}

// Dump reads everything that the BMC shows, by its links, within bounds.
func (l *Lane) Dump(ctx context.Context) (*redfish.Tree, error) {
	v := l.view(Person)
	if _, err := v.loggedIn(ctx); err != nil {
		return nil, err
	}
	tree, err := redfish.Crawl(ctx, v, redfish.CrawlLimits{}, l.client.Secrets()...)
	return tree, l.named(err)
}

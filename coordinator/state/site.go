package state

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	// MaxSiteAgents is how many agents of one site gossip with each other: those
	// beyond it, by name, are alone.
	MaxSiteAgents = 256
	// siteKeys is how many keys of a site's gossip are kept: the newest, and those
	// that an agent may still use until it has it.
	siteKeys     = 3
	maxSealedKey = 1 << 10 // bytes of one key for one agent
	maxSiteAddr  = 64      // bytes of an address
)

// SiteRoster is who gossips in a site, and the newest key of it.
type SiteRoster struct {
	Site   string
	Agents []*pb.AgentInfo // by name; not those who are denied
	Key    *pb.SiteKeyring // nil: there is none yet
}

// Covered reports whether the key is sealed for exactly these agents.
func (r SiteRoster) Covered() bool {
	if len(r.Key.GetSealed()) != len(r.Agents) {
		return false
	}
	for _, a := range r.Agents {
		if _, has := r.Key.GetSealed()[a.GetName()]; !has {
			return false
		}
	}
	return true
}

// putSiteKey keeps a new key of a site's gossip.
func (m *Machine) putSiteKey(at int64, k *pb.SiteKeyring) Outcome {
	const op = "keep a key of a site"
	if err := nameOK("site", k.GetSite()); err != nil {
		return refused(fault.BadInput, op, err.Error())
	}
	if len(k.GetSealed()) > MaxSiteAgents {
		return refused(fault.TooLarge, op, fmt.Sprintf("it is for %d agents, a site has at most %d", len(k.GetSealed()), MaxSiteAgents))
	}
	for name, text := range k.GetSealed() {
		if len(text) > maxSealedKey || len(name) > maxName {
			return refused(fault.TooLarge, op, "it is no sealed key")
		}
	}
	fresh := shallow(k)
	fresh.Id, fresh.MadeUnixMs = 1, at
	if had := m.siteKeys[k.GetSite()]; len(had) > 0 {
		fresh.Id = had[0].GetId() + 1
	}
	kept := append([]*pb.SiteKeyring{fresh}, m.siteKeys[k.GetSite()]...)
	m.siteKeys[k.GetSite()] = kept[:min(len(kept), siteKeys)]
	return Outcome{Racks: racksOf(m.siteAgents(k.GetSite()))}
}

// siteAgents are the agents of a site that gossip, by name. It is the caller's to read.
func (m *Machine) siteAgents(site string) []*pb.AgentInfo {
	return m.rosters.of(site, func() (all []*pb.AgentInfo) {
		for _, a := range m.agents {
			isDenied := m.denied["agent/"+a.GetName()] != nil || m.denied["rack/"+a.GetRack()] != nil
			if a.GetSite() == site && a.GetSiteGossip() != "" && !isDenied {
				all = append(all, a)
			}
		}
		slices.SortFunc(all, byName)
		return slices.Clip(all[:min(len(all), MaxSiteAgents)])
	})
}

func byName(a, b *pb.AgentInfo) int { return strings.Compare(a.GetName(), b.GetName()) }

// rosters remembers who gossips in which site: each desired state says it, and to find
// it all agents are looked at. Where their spools are it may tell as it was.
type rosters struct {
	mu    sync.Mutex // several may read the machine at a time
	known map[string][]*pb.AgentInfo
}

func (r *rosters) of(site string, find func() []*pb.AgentInfo) []*pb.AgentInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	all, ok := r.known[site]
	if !ok {
		if r.known == nil {
			r.known = map[string][]*pb.AgentInfo{}
		}
		all = find()
		r.known[site] = all
	}
	return all
}

// forget is for when an agent says something new, or somebody is denied or no longer.
func (r *rosters) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.known)
}

// saysNew reports whether a roster with the agent has to be made anew.
func saysNew(known, said *pb.AgentInfo) bool {
	return known == nil || known.GetRack() != said.GetRack() || known.GetSite() != said.GetSite() ||
		known.GetSiteGossip() != said.GetSiteGossip() || known.GetSiteCalls() != said.GetSiteCalls() ||
		!bytes.Equal(known.GetSealKey(), said.GetSealKey()) || !bytes.Equal(known.GetSealProof(), said.GetSealProof())
}

func racksOf(agents []*pb.AgentInfo) []string {
	racks := make([]string, len(agents))
	for i, a := range agents {
		racks[i] = a.GetRack()
	}
	slices.Sort(racks)
	return slices.Compact(racks)
}

// moved are the racks that must hear of what an agent now says of itself: those of
// its site, if others find it elsewhere. A key that was sealed for another sealing
// key is of no use to it, so it counts as having none.
func (m *Machine) moved(known, said *pb.AgentInfo) []string {
	if string(known.GetSealKey()) != string(said.GetSealKey()) {
		m.forgetSealed(said)
	}
	if known.GetSiteGossip() == said.GetSiteGossip() && known.GetSiteCalls() == said.GetSiteCalls() {
		return nil
	}
	return racksOf(m.siteAgents(said.GetSite()))
}

func (m *Machine) forgetSealed(a *pb.AgentInfo) {
	keys := slices.Clone(m.siteKeys[a.GetSite()])
	for i, k := range keys {
		if _, has := k.GetSealed()[a.GetName()]; !has {
			continue
		}
		without := shallow(k)
		without.Sealed = make(map[string]string, len(k.GetSealed()))
		for name, text := range k.GetSealed() {
			if name != a.GetName() {
				without.Sealed[name] = text
			}
		}
		keys[i] = without
	}
	if len(keys) > 0 {
		m.siteKeys[a.GetSite()] = keys
	}
}

func siteAddrOK(a *pb.AgentInfo) error {
	if len(a.GetSiteGossip()) > maxSiteAddr || len(a.GetSiteCalls()) > maxSiteAddr {
		return errors.New("its address for the agents of its site is none")
	}
	return nil
}

// Site is what an agent must know of the others of its site; nil for one that does
// not listen for others, or is denied.
func (m *Machine) Site(agent string) *pb.Site {
	m.mu.RLock()
	defer m.mu.RUnlock()
	a := m.agents[agent]
	if a.GetSiteGossip() == "" {
		return nil
	}
	s := &pb.Site{}
	found := false
	for _, other := range m.siteAgents(a.GetSite()) {
		found = found || other.GetName() == agent
		s.Agents = append(s.Agents, &pb.SiteAgent{
			Name: other.GetName(), Rack: other.GetRack(), Gossip: other.GetSiteGossip(), Calls: other.GetSiteCalls(),
		})
	}
	if !found {
		return nil
	}
	for _, k := range m.siteKeys[a.GetSite()] {
		if text := k.GetSealed()[agent]; text != "" {
			s.Keys = append(s.Keys, &pb.SiteKey{Id: k.GetId(), Sealed: text})
		}
	}
	return s
}

// Sites are the sites in which somebody gossips, by name.
func (m *Machine) Sites() []SiteRoster {
	m.mu.RLock()
	defer m.mu.RUnlock()
	names := map[string]string{}
	for _, a := range m.agents {
		if a.GetSiteGossip() != "" {
			names[a.GetSite()] = a.GetSite()
		}
	}
	var all []SiteRoster
	for _, name := range sorted(names) {
		r := SiteRoster{Site: name, Agents: slices.Clone(m.siteAgents(name))}
		if keys := m.siteKeys[name]; len(keys) > 0 {
			r.Key = keys[0]
		}
		all = append(all, r)
	}
	return all
}

// allSiteKeys are the keys of all sites, by site, newest first.
func (m *Machine) allSiteKeys() (all []*pb.SiteKeyring) {
	for _, keys := range sorted(m.siteKeys) {
		all = append(all, keys...)
	}
	return all
}

// restoreSites takes the keys of sites, the artifacts and the site catalogue.
func (m *Machine) restoreSites(s *pb.Snapshot) error {
	for _, k := range s.GetSiteKeys() {
		m.siteKeys[k.GetSite()] = append(m.siteKeys[k.GetSite()], k)
	}
	for _, a := range s.GetArtifacts() {
		m.artifacts[a.GetDigest()] = a
	}
	return m.restoreCatalogue(s.GetCatalogue())
}

package bmc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// places are the paths of a BMC, found by links from its service root. No id is
// taken for granted: "system", "1" and "System.Embedded.1" are all in use.
type places struct {
	root    *redfish.Root
	system  redfish.Link
	manager redfish.Link   // that the system names; see managerLink
	chassis []redfish.Link // those that the system names
}

const maxChassis = 32

// places finds them once. The lane forgets them when one turns out to be gone.
func (v *view) places(ctx context.Context) (*places, error) {
	l := v.lane
	l.mu.Lock()
	known := l.where
	l.mu.Unlock()
	if known != nil {
		return known, nil
	}
	found, err := v.explore(ctx)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.where = found
	return found, nil
}

func (v *view) explore(ctx context.Context) (*places, error) {
	p := &places{}
	err := v.lane.paced(ctx, v.prio, v.lane.reads, func() (err error) {
		p.root, err = v.lane.client.Root(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	systems, err := redfish.Members(ctx, v, p.root.Systems, 64)
	if err != nil {
		return nil, err
	}
	if p.system, err = v.lane.choose(systems); err != nil {
		return nil, err
	}
	var s system
	if err := redfish.Get(ctx, v, p.system, &s); err != nil {
		return nil, err
	}
	p.chassis = links(s.Links.Chassis)
	if managers := links(s.Links.ManagedBy); len(managers) > 0 {
		p.manager = managers[0]
	}
	return p, nil
}

// chassisLinks are all chassis, the system's own first, listed once and only
// when they are needed. The sensors of a board may sit in a chassis that the
// system does not name; on some BMCs it names none at all.
func (v *view) chassisLinks(ctx context.Context) ([]redfish.Link, error) {
	l := v.lane
	l.mu.Lock()
	known := l.chassis
	l.mu.Unlock()
	if known != nil {
		return known, nil
	}
	p, err := v.places(ctx)
	if err != nil {
		return nil, err
	}
	all := p.chassis
	if p.root.Chassis != "" {
		listed, err := redfish.Members(ctx, v, p.root.Chassis, maxChassis)
		if err != nil && len(all) == 0 {
			return nil, err
		}
		all = links(append(slices.Clip(all), listed...))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.chassis = all
	return all, nil
}

// choose picks the computer system that the lane stands for.
func (l *Lane) choose(systems []redfish.Link) (redfish.Link, error) {
	for _, s := range systems {
		if l.cfg.System == "" || strings.EqualFold(lastSegment(s), l.cfg.System) {
			return s, nil
		}
	}
	if l.cfg.System != "" {
		return "", fault.New(fault.NotFound, "find the computer system", fmt.Sprintf("this BMC shows no system %q", l.cfg.System))
	}
	return "", fault.New(fault.Unsupported, "find the computer system", "this BMC shows none")
}

// links leaves out empty and repeated links.
func links(all []redfish.Link) []redfish.Link {
	var out []redfish.Link
	seen := map[redfish.Link]bool{"": true}
	for _, l := range all {
		if !seen[l] {
			seen[l] = true
			out = append(out, l)
		}
	}
	return out
}

// recentSystem is the computer system as it was last read.
type recentSystem struct {
	system system
	at     time.Time
}

// freshFor is how long a command may build on what the one before it read
// back: they follow each other in one sequence.
const freshFor = 2 * time.Second

// system reads the computer system.
func (v *view) system(ctx context.Context) (*system, redfish.Link, error) {
	p, err := v.places(ctx)
	if err != nil {
		return nil, "", err
	}
	s := &system{}
	if err := redfish.Get(ctx, v, p.system, s); err != nil {
		v.lane.forget(err)
		return nil, p.system, err
	}
	v.lane.mu.Lock()
	v.lane.recent = recentSystem{system: *s, at: v.lane.cfg.Now()}
	v.lane.mu.Unlock()
	return s, p.system, nil
}

// recentSystem is the computer system as read a moment ago, else as read now.
func (v *view) recentSystem(ctx context.Context) (*system, error) {
	if s := v.lane.lastSeen(freshFor); s != nil {
		return s, nil
	}
	s, _, err := v.system(ctx)
	return s, err
}

// lastSeen is the computer system as it was last read, nil if that is longer
// ago than within, or something has changed it since.
func (l *Lane) lastSeen(within time.Duration) *system {
	l.mu.Lock()
	r := l.recent
	l.mu.Unlock()
	if r.at.IsZero() || l.cfg.Now().Sub(r.at) >= within {
		return nil
	}
	return &r.system
}

// forget drops the known paths after one of them was not found: firmware
// updates move them.
func (l *Lane) forget(err error) {
	var answered *redfish.StatusError
	if !fault.Is(err, fault.NotFound) || !errors.As(err, &answered) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.where, l.chassis, l.manager, l.plan, l.log, l.recent = nil, nil, "", nil, nil, recentSystem{}
}

// managerLink is the BMC itself: what the system names or, if it names none, the
// first that is listed. "" if the BMC shows none.
func (v *view) managerLink(ctx context.Context) (redfish.Link, error) {
	p, err := v.places(ctx)
	if err != nil {
		return "", err
	}
	if p.manager != "" || p.root.Managers == "" {
		return p.manager, nil
	}
	l := v.lane
	l.mu.Lock()
	known := l.manager
	l.mu.Unlock()
	if known != "" {
		return known, nil
	}
	listed, err := redfish.Members(ctx, v, p.root.Managers, 8)
	if err != nil || len(listed) == 0 {
		return "", err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.manager = listed[0]
	return listed[0], nil
}

// manager reads the BMC itself.
func (v *view) manager(ctx context.Context) (*manager, redfish.Link, error) {
	uri, err := v.managerLink(ctx)
	if err == nil && uri == "" {
		err = absent("manager")
	}
	if err != nil {
		return nil, "", err
	}
	m := &manager{}
	err = redfish.Get(ctx, v, uri, m)
	v.lane.client.SawManager(string(m.Model))
	return m, uri, err
}

// absent says that the BMC does not report something.
func absent(what string) error {
	return fault.New(fault.Unsupported, "", "this BMC reports no "+what)
}

// orAbsent is err, or absent where err only says that there is no such
// resource.
func orAbsent(err error, what string) error {
	if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Unsupported) {
		return absent(what)
	}
	return err
}

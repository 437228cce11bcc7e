package dev

import (
	"context"
	"path/filepath"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/chiba-mesh/chiba/agent"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// agentSetup writes agent.yaml and reads it back: what runs here is what
// `chiba agent --state` would run.
func (f *running) agentSetup(ctx context.Context, n int, standby bool) (agent.Config, error) {
	r, err := f.readRack()
	if err != nil {
		return agent.Config{}, err
	}
	if len(r.Nodes) == 0 {
		return agent.Config{}, fault.New(fault.Conflict, "start the agent", "there is no simulated rack yet").
			WithHint("start it first: chiba dev --only sim")
	}
	if n == 1 && !standby { // they stand in the first rack
		if err = f.meetOwn(ctx, &r); err != nil {
			return agent.Config{}, err
		}
	}
	coordinators := f.known(meshFile)
	if len(coordinators) == 0 {
		return agent.Config{}, fault.New(fault.Conflict, "start the agent", "there is no coordinator yet").
			WithHint("start it first: chiba dev --only coordinator")
	}
	f.rack = r
	config := r.agentConfig(f.layout, n, coordinators)
	if f.size.Standby {
		f.inPair(&config, n, standby)
	}
	if f.size.Racks > 1 { // they are a site
		part := partAgent
		if standby {
			part = partStandby
		}
		config.SiteListen = f.remembered(2, siteFile(part, n))
	}
	file := filepath.Join(config.State, agent.ConfigFile)
	if err = writeAgent(file, config); err != nil {
		return agent.Config{}, err
	}
	if config, err = agent.ReadConfig(file); err != nil {
		return agent.Config{}, err
	}
	config.Log = f.opts.Log
	config.Taken = f.taken.of(len(r.Nodes), f.say)
	return config, nil
}

// Everything on one machine, nothing is lost: a silence means more than between
// machines.
const (
	devLease    = 3 * time.Second
	devPing     = 300 * time.Millisecond
	devPatience = 1500 * time.Millisecond
)

// inPair makes the agent of a rack one of two.
func (f *running) inPair(config *agent.Config, n int, standby bool) {
	own, other := pairFile(partAgent, n), pairFile(partStandby, n)
	config.Pair.Name = fleet.AgentName(standbyName(n))
	if standby {
		own, other = other, own
		config.Name, config.Pair.Name, config.State = config.Pair.Name, config.Name, f.standby(n)
	}
	config.Pair.Listen, config.Pair.Peer = f.remembered(2, own), f.remembered(2, other)
	config.Pair.Every, config.Pair.Patience = devPing, devPatience
}

func (f *running) meetOwn(ctx context.Context, r *rack) error {
	for _, text := range f.opts.Own {
		e, err := parseBMC(text)
		if err != nil {
			return err
		}
		e.User, e.PasswordFile = f.opts.User, f.opts.PasswordFile
		if err := r.meet(ctx, e, f.say); err != nil {
			return err
		}
	}
	return f.writeRack(*r)
}

func writeAgent(path string, config agent.Config) error {
	text, err := yaml.MarshalWithOptions(config, yaml.OmitEmpty())
	if err != nil {
		return fault.Wrap(fault.Internal, "write "+agent.ConfigFile, err)
	}
	return writeFile(path, text)
}

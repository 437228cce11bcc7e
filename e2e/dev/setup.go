package dev

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/chiba-mesh/chiba/agent"
	"github.com/chiba-mesh/chiba/pkg/fault"
)

// agentSetup writes agent.yaml and reads it back: what runs here is what
// `chiba agent --state` would run.
func (f *running) agentSetup(ctx context.Context) (agent.Config, error) {
	r, err := f.readRack()
	if err != nil {
		return agent.Config{}, err
	}
	if len(r.Nodes) == 0 {
		return agent.Config{}, fault.New(fault.Conflict, "start the agent", "there is no simulated rack yet").
			WithHint("start it first: chiba dev --only sim")
	}
	if err = f.meetOwn(ctx, &r); err != nil {
		return agent.Config{}, err
	}
	if f.mesh, err = f.meshAddress(); err != nil {
		return agent.Config{}, err
	}
	f.rack = r
	config := r.agentConfig(f.layout, f.mesh)
	if err = f.writeAgent(config); err != nil {
		return agent.Config{}, err
	}
	if config, err = agent.ReadConfig(f.path("agent", agent.ConfigFile)); err != nil {
		return agent.Config{}, err
	}
	config.Log = f.opts.Log
	config.Taken = (&takeovers{of: len(r.Nodes), say: f.say}).hear
	return config, nil
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

func (f *running) meshAddress() (string, error) {
	text, err := os.ReadFile(f.path(meshFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", fault.New(fault.Conflict, "start the agent", "there is no coordinator yet").
			WithHint("start it first: chiba dev --only coordinator")
	}
	return strings.TrimSpace(string(text)), fault.Wrap(fault.Unavailable, "start the agent", err)
}

func (f *running) writeAgent(config agent.Config) error {
	text, err := yaml.MarshalWithOptions(config, yaml.OmitEmpty())
	if err != nil {
		return fault.Wrap(fault.Internal, "write "+agent.ConfigFile, err)
	}
	return writeFile(f.path("agent", agent.ConfigFile), text)
}

package dev

import (
	"os"
	"os/user"
	"path/filepath"

	"github.com/goccy/go-yaml"

	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
)

// The names of the one coordinator, rack, site and agent of a dev fleet.
const (
	coordinatorName = "c1"
	rackName        = "r01"
	siteName        = "dev"
	agentName       = "agent-r01"
)

// layout is where things lie in a state directory:
//
//	ca/            the authority: its key never leaves this directory
//	coordinator/   credentials, Raft log, snapshots
//	agent/         credentials, agent.yaml, spool
//	operator/      credentials of the person, used by the client commands
//	sim/           the flash of each simulated BMC
//	context.yaml   how the client commands find the coordinator
type layout string

func (l layout) path(parts ...string) string {
	return filepath.Join(append([]string{string(l)}, parts...)...)
}

func (l layout) coordinator() string { return l.path("coordinator") }
func (l layout) agent() string       { return l.path("agent") }
func (l layout) operator() string    { return l.path("operator") }

// prepare makes the directory, the authority and everybody's credentials,
// unless they are there.
func (l layout) prepare() error {
	if err := os.MkdirAll(string(l), 0o700); err != nil {
		return fault.New(fault.Unavailable, "make the state directory", err.Error()).WithHint("name another one with --state DIR")
	}
	unlock, err := l.waitPrepare()
	if err != nil {
		return err
	}
	defer unlock()
	authority, err := ca.Open(l.path("ca"), siteName)
	if err != nil {
		return err
	}
	coordinator := trust.Identity{Role: trust.Coordinator, Name: coordinatorName}
	if err := authority.Ensure(l.coordinator(), coordinator, "127.0.0.1", "::1", "localhost"); err != nil {
		return err
	}
	if err := authority.Ensure(l.agent(), trust.Identity{Role: trust.Agent, Domain: trust.Domain{Rack: rackName}, Name: agentName}); err != nil {
		return err
	}
	return authority.Ensure(l.operator(), trust.Identity{Role: trust.Operator, Name: person()})
}

// waitPrepare serialises processes that are started on one new directory at
// the same time.
func (l layout) waitPrepare() (unlock func(), err error) {
	return lockWait(string(l), "prepare")
}

// person is the user's login name, as far as it can be a name of an identity.
func person() string {
	if u, err := user.Current(); err == nil && trust.ValidName(u.Username) {
		return u.Username
	}
	return "operator"
}

// writeContext tells the client commands where the coordinator's API is.
func (l layout) writeContext(api string) error {
	text, err := yaml.Marshal(client.Context{
		Address: "https://" + api,
		CA:      filepath.Join("operator", trust.CAFile),
		Cert:    filepath.Join("operator", trust.CertFile),
		Key:     filepath.Join("operator", trust.KeyFile),
	})
	if err != nil {
		return fault.Wrap(fault.Internal, "write the context", err)
	}
	return writeFile(l.path(client.ContextFile), text)
}

// writeFile replaces a file in one step, readable for its owner alone.
func writeFile(path string, text []byte) error {
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return fault.Wrap(fault.Unavailable, "write "+filepath.Base(path), err)
	}
	return fault.Wrap(fault.Unavailable, "write "+filepath.Base(path), os.Rename(path+".new", path))
}

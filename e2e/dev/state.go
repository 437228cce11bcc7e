package dev

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/author"
	"github.com/chiba-mesh/chiba/trust/ca"
)

const siteName = "dev"

// The names of the coordinators, racks and agents of a dev fleet, from 1 on.
func coordinatorName(n int) string { return fmt.Sprintf("c%d", n) }
func rackName(n int) string        { return fmt.Sprintf("r%02d", n) }
func agentName(n int) string       { return "agent-" + rackName(n) }
func standbyName(n int) string     { return agentName(n) + "b" }

// layout is where things lie in a state directory:
//
//	ca/            the authority: its key never leaves this directory
//	coordinator/   credentials, Raft log, snapshots; coordinator-2/ … of the others
//	agent/         credentials, agent.yaml, spool; agent-2/ … of the other racks
//	standby/       the same of the second agents, if there are any
//	size.yaml      how many of both there are
//	operator/      credentials and author key of the person, used by the client commands
//	authors/       the key that signs the policy of authors, and the policy
//	sim/           the flash of each simulated BMC
//	context.yaml   how the client commands find the coordinator
type layout string

func (l layout) path(parts ...string) string {
	return filepath.Join(append([]string{string(l)}, parts...)...)
}

func (l layout) coordinator(n int) string { return l.path(numbered(partCoordinator, n)) }
func (l layout) agent(n int) string       { return l.path(numbered(partAgent, n)) }
func (l layout) standby(n int) string     { return l.path(numbered(partStandby, n)) }
func (l layout) operator() string         { return l.path("operator") }

// prepare makes the directory, the authority and everybody's credentials,
// unless they are there.
func (l layout) prepare(flags size) (size, error) {
	if err := os.MkdirAll(string(l), 0o700); err != nil {
		return flags, fault.New(fault.Unavailable, "make the state directory", err.Error()).WithHint("name another one with --state DIR")
	}
	unlock, err := l.waitPrepare()
	if err != nil {
		return flags, err
	}
	defer unlock()
	s, err := l.settle(flags)
	if err != nil {
		return s, err
	}
	return s, l.certify(s)
}

// certify makes the authority and everybody's credentials.
func (l layout) certify(s size) error {
	authority, err := ca.Open(l.path("ca"), siteName)
	if err != nil {
		return err
	}
	public := []string{l.operator()}
	for n := 1; n <= s.Coordinators; n++ {
		id := trust.Identity{Role: trust.Coordinator, Name: coordinatorName(n)}
		if err := authority.Ensure(l.coordinator(n), id, "127.0.0.1", "::1", "localhost"); err != nil {
			return err
		}
		public = append(public, l.coordinator(n))
	}
	for n := 1; n <= s.Racks; n++ {
		id := trust.Identity{Role: trust.Agent, Domain: trust.Domain{Rack: rackName(n)}, Name: agentName(n)}
		if err := authority.Ensure(l.agent(n), id); err != nil {
			return err
		}
		public = append(public, l.agent(n))
		if !s.Standby {
			continue
		}
		id.Name = standbyName(n)
		if err := authority.Ensure(l.standby(n), id); err != nil {
			return err
		}
		public = append(public, l.standby(n))
	}
	if err := authority.Ensure(l.operator(), trust.Identity{Role: trust.Operator, Name: person()}); err != nil {
		return err
	}
	return author.Solo(l.path("authors"), l.operator(), person(), public...)
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

// writeContext tells the client commands where the coordinators' APIs are.
func (l layout) writeContext(apis []string) error {
	text, err := yaml.Marshal(client.Context{
		Address: "https://" + strings.Join(apis, ",https://"),
		CA:      filepath.Join("operator", trust.CAFile),
		Cert:    filepath.Join("operator", trust.CertFile),
		Key:     filepath.Join("operator", trust.KeyFile),
		Author:  filepath.Join("operator", author.KeyFile),
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

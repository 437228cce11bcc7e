package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/agent/enroll"
	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust"
	trustenroll "github.com/chiba-mesh/chiba/trust/enroll"
	"github.com/chiba-mesh/chiba/trust/sign"
)

// joining is what `chiba agent join` was told.
type joining struct {
	state        string
	bundle       string
	name, rack   string
	coordinators []string
	pins         []string
	scriptRoot   string
}

// joinCommand is `chiba agent join`.
func joinCommand() *cobra.Command {
	var j joining
	cmd := &cobra.Command{
		Use:   "join (BUNDLE | --coordinator HOST:PORT --pin PIN --rack RACK) --state DIR",
		Short: "make this machine the agent of a rack",
		Long: `Make this machine the agent of a rack: make its key, have it certified by the
coordinators, and write cert.pem, key.pem, ca.pem and, if there is none, ` + ConfigFile + `
into a state directory. From then on the agent renews its certificate itself.

BUNDLE is the file that chiba trust token create has written. It is good for one
machine, once. Without one the machine shows a code, and waits until a person has
approved it with chiba trust approve CODE; --pin is that of the mesh's root, which
chiba ca root shows.

Broken off, it is simply started again.`,
		Example: "  chiba agent join /media/stick/join.bundle --state /var/lib/chiba/agent\n" +
			"  chiba agent join --coordinator 10.0.0.5:7443 --pin sha256/… --rack r17 --state /var/lib/chiba/agent",
		Args: cli.Args(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				j.bundle = args[0]
			}
			if err := j.usage(); err != nil {
				return err
			}
			return j.run(cmd)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&j.state, "state", "", "the agent's state `directory`, made if it is not there")
	flags.StringVar(&j.rack, "rack", "", "`name` of the rack, without a bundle")
	flags.StringVar(&j.name, "name", "", "`name` of the agent, without a bundle (default: agent-RACK)")
	flags.StringSliceVar(&j.coordinators, "coordinator", nil, "`host:port` of a coordinator; repeatable; instead of the bundle's")
	flags.StringSliceVar(&j.pins, "pin", nil, "`pin` of the mesh's root, sha256/…; repeatable; with a bundle it must be one of the bundle's")
	flags.StringVar(&j.scriptRoot, "script-root", "", "`file` "+sign.RootFile+" of who signs the policy of authors, without a bundle")
	return cmd
}

func (j *joining) usage() error {
	switch {
	case j.state == "":
		return cli.UsageError("a state directory is needed", "add --state DIR")
	case j.bundle != "" && (j.rack != "" || j.name != "" || j.scriptRoot != ""):
		return cli.UsageError("the bundle says the rack, the name and the script root", "leave out --rack, --name and --script-root")
	case j.bundle == "" && (j.rack == "" || len(j.coordinators) == 0 || len(j.pins) == 0):
		return cli.UsageError("without a bundle --coordinator, --pin and --rack are needed", "see: chiba agent join --help")
	}
	for _, addr := range j.coordinators {
		if err := trustenroll.CheckAddr(addr); err != nil {
			return err
		}
	}
	return trustenroll.CheckPins(j.pins)
}

// run joins, and says what to do next.
func (j *joining) run(cmd *cobra.Command) error {
	if err := os.MkdirAll(j.state, 0o700); err != nil {
		return fault.Wrap(fault.Unavailable, "join", err)
	}
	var id trust.Identity
	var err error
	if j.bundle != "" {
		id, err = j.byBundle(cmd)
	} else {
		id, err = j.byApproval(cmd)
	}
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "%s is enrolled, in %s\n", cli.Clean(id.URI().String()), cli.Clean(j.state))
	if _, err := os.Stat(filepath.Join(j.state, sign.RootFile)); err != nil {
		fmt.Fprintf(out, "bring %s into that directory: the agent does not start without it\n", sign.RootFile)
	}
	fmt.Fprintf(out, "next: name the rack's BMCs in %s, then: chiba agent --state %s\n",
		cli.Clean(filepath.Join(j.state, ConfigFile)), cli.Clean(j.state))
	return nil
}

func (j *joining) byBundle(cmd *cobra.Command) (trust.Identity, error) {
	b, by, err := j.readBundle()
	if err != nil {
		return trust.Identity{}, err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "agent %s of rack %s, site %s, by %s; coordinators: %s\n",
		b.Name, b.Rack, b.Site, cli.Clean(by.Name), strings.Join(b.Coordinators, ", "))
	return joinBundle(cmd.Context(), j.state, b)
}

func (j *joining) readBundle() (trustenroll.Bundle, trust.Identity, error) {
	text, err := os.ReadFile(j.bundle)
	if err != nil {
		return trustenroll.Bundle{}, trust.Identity{}, fault.New(fault.BadInput, "read the join bundle", err.Error()).
			WithHint("make one with: chiba trust token create --rack RACK --out FILE")
	}
	b, by, err := trustenroll.DecodeBundle(text, time.Now())
	if err != nil {
		return b, by, err
	}
	if len(j.coordinators) > 0 {
		b.Coordinators = j.coordinators // it is verified by its root, not by where it is
	}
	for _, pin := range j.pins {
		if !slices.Contains(b.Pins, pin) {
			return b, by, fault.New(fault.Untrusted, "read the join bundle", "it is for another mesh: its roots are "+strings.Join(b.Pins, ", "))
		}
	}
	return b, by, nil
}

// joinBundle makes the state directory dir that of the agent of a bundle.
func joinBundle(ctx context.Context, dir string, b trustenroll.Bundle) (trust.Identity, error) {
	id := trust.Identity{Role: trust.Agent, Domain: trust.Domain{Site: b.Site, Rack: b.Rack}, Name: b.Name}
	if done, err := hasJoined(dir, b.Token); done || err != nil {
		return id, err
	}
	if err := fits(dir, id); err != nil {
		return id, err
	}
	n, err := enroll.Prepare(dir, b.Name, b.Rack, b.Token)
	if err != nil {
		return id, err
	}
	joined, err := n.ByToken(ctx, b, time.Now)
	if err != nil {
		return id, err
	}
	if len(b.ScriptRoot) > 0 {
		if err := trust.WriteFile(filepath.Join(dir, sign.RootFile), 0o644, b.ScriptRoot); err != nil {
			return id, fault.Wrap(fault.Unavailable, "keep "+sign.RootFile, err)
		}
	}
	return id, finishJoin(dir, b.Token, n, joined, b.Coordinators)
}

// hasJoined reports whether the agent in dir is there by that token.
func hasJoined(dir, token string) (bool, error) {
	state, err := enroll.ReadState(filepath.Join(dir, enroll.StateFile))
	if err != nil || state.Token != token {
		return false, err
	}
	_, err = trust.Load(dir)
	return err == nil, nil // broken off, it is done again
}

func (j *joining) byApproval(cmd *cobra.Command) (trust.Identity, error) {
	name, none := cmp.Or(j.name, "agent-"+j.rack), trust.Identity{}
	id := trust.Identity{Role: trust.Agent, Domain: trust.Domain{Site: trust.DefaultSite, Rack: j.rack}, Name: name}
	if err := id.Check(); err != nil {
		return none, err
	}
	id.Site = "" // the coordinators say it
	if err := fits(j.state, id); err != nil {
		return none, err
	}
	var root []byte
	if j.scriptRoot != "" {
		var err error
		if _, err = sign.LoadRoot(j.scriptRoot); err != nil {
			return none, err
		}
		if root, err = os.ReadFile(j.scriptRoot); err != nil {
			return none, fault.Wrap(fault.BadInput, "read "+sign.RootFile, err)
		}
	}
	n, err := enroll.Prepare(j.state, name, j.rack, "")
	if err != nil {
		return none, err
	}
	out := cmd.OutOrStdout()
	joined, err := n.ByApproval(cmd.Context(), enroll.Door{Coordinators: j.coordinators, Pins: j.pins, Now: time.Now}, func(code string, until time.Time) {
		fmt.Fprintf(out, "code: %s\nkey:  %s\nwaiting for: chiba trust approve %s  (until %s)\n", code, n.ShortKey(), code, until.Local().Format(time.TimeOnly))
	})
	if err != nil {
		return none, err
	}
	if id, err = joined.Credentials.Identity(); err != nil {
		return none, err
	}
	if root != nil {
		if err := trust.WriteFile(filepath.Join(j.state, sign.RootFile), 0o644, root); err != nil {
			return none, fault.Wrap(fault.Unavailable, "keep "+sign.RootFile, err)
		}
	}
	return id, finishJoin(j.state, "", n, joined, j.coordinators)
}

// fits is an error if the configuration that is there is of another agent.
func fits(dir string, id trust.Identity) error {
	path := filepath.Join(dir, ConfigFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	c, err := ReadConfig(path)
	if err != nil {
		return err
	}
	if string(c.Name) != id.Name || string(c.Rack) != id.Rack || c.Site != "" && id.Site != "" && string(c.Site) != id.Site {
		return fault.New(fault.Conflict, "join", fmt.Sprintf("%s is of agent %s in rack %s, not of %s in rack %s", path, c.Name, c.Rack, id.Name, id.Rack)).
			WithHint("name another --state directory, or correct the file")
	}
	return nil
}

// finishJoin puts everything on disk that `chiba agent --state` reads.
func finishJoin(dir, token string, n enroll.Newcomer, joined enroll.Joined, coordinators []string) error {
	id, err := joined.Credentials.Identity()
	if err != nil {
		return err
	}
	path := filepath.Join(dir, ConfigFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := trust.WriteFile(path, 0o600, firstConfig(id, coordinators)); err != nil {
			return fault.Wrap(fault.Unavailable, "write "+path, err)
		}
	}
	return n.Keep(dir, token, joined)
}

// firstConfig is the configuration of an agent that has just joined. Everything in it
// has been checked to be plain.
func firstConfig(id trust.Identity, coordinators []string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "# Written by chiba agent join. The documentation shows every field: deploy/agent.yaml\n")
	fmt.Fprintf(&b, "name: %q\nrack: %q\nsite: %q\ncoordinators:\n", id.Name, id.Rack, id.Site)
	for _, addr := range coordinators {
		fmt.Fprintf(&b, "  - %q\n", addr)
	}
	b.WriteString(`
# The rack's BMCs. Each is known by the key of its certificate.
nodes: []
#  - name: r17-u01
#    pin: sha256/…
#    user: root
#    password_file: /etc/chiba/bmc-password
`)
	return []byte(b.String())
}

package author

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/enroll"
	"github.com/chiba-mesh/chiba/trust/sign"
)

// joinToken is what `chiba trust token create` was told.
type joinToken struct {
	rack, name, site, out string
	ttl                   time.Duration
	replace               bool
	coordinators          []string
	scriptRoot            string
}

func tokenCommand() *cobra.Command {
	cmd := cli.Parent(&cobra.Command{
		Use: "token", Short: "join tokens: each lets one machine become the agent of a rack, once",
		Example: "  chiba trust token create --rack r17 --out join.bundle\n  chiba trust token list",
	})
	cmd.AddCommand(tokenCreate(), tokenList(), tokenRevoke())
	return cmd
}

func tokenCreate() *cobra.Command {
	var j joinToken
	cmd := &cobra.Command{
		Use:   "create --rack NAME [--out FILE]",
		Short: "make a token, and the bundle with which a machine joins",
		Long: `Make a join token, and write the bundle with which a machine becomes the agent of a
rack: chiba agent join FILE. The bundle holds all that the machine must know, the
coordinators' addresses, the keys of the roots, who signs the policy of authors, and
the token's secret, which is nowhere else. It is good once; keep it as a password.

Your certificate signs it: who changes an address or a key in it is found out.`,
		Example: "  chiba trust token create --rack r17 --out join.bundle\n" +
			"  chiba trust token create --rack r17 --replace --coordinator 10.0.0.5:7443 --out join.bundle   # the old machine is gone",
		Args: cli.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if j.rack == "" {
				return cli.UsageError("a rack is needed", "chiba trust token create --rack NAME")
			}
			return j.run(cmd)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&j.rack, "rack", "", "`name` of the rack")
	flags.StringVar(&j.name, "name", "", "`name` of its agent (default: agent-RACK)")
	flags.StringVar(&j.site, "site", "", "`name` of the site, to be sure: there is an error if the coordinator is of another")
	flags.DurationVar(&j.ttl, "ttl", enroll.TokenLife, "how `long` it is good, up to "+enroll.MaxTokenLife.String())
	flags.StringVar(&j.out, "out", "join.bundle", "`file` to write, readable for you alone; - is the standard output")
	flags.BoolVar(&j.replace, "replace", false, "the machine takes the rack from its agent, whose key is denied then")
	flags.StringSliceVar(&j.coordinators, "coordinator", nil, "`host:port` at which agents reach a coordinator; repeatable (default: the context's host)")
	flags.StringVar(&j.scriptRoot, "script-root", "", "`file` "+sign.RootFile+" (default: the one beside your certificate)")
	return cmd
}

func (j *joinToken) run(cmd *cobra.Command) error {
	where, err := loadContext(cmd)
	if err != nil {
		return err
	}
	own, err := trust.LoadFiles(where.Cert, where.Key, where.CA)
	if err != nil {
		return err
	}
	root, err := j.root(where)
	if err != nil {
		return err
	}
	var id [8]byte
	b := enroll.Bundle{
		Rack: j.rack, Name: cmp.Or(j.name, "agent-"+j.rack), Pins: own.Pins(),
		Secret: make([]byte, enroll.SecretSize), MinVersion: enroll.Version, ScriptRoot: root, Coordinators: j.coordinators,
	}
	_, _ = rand.Read(id[:]) // never fails, see its documentation
	_, _ = rand.Read(b.Secret)
	b.Token = hex.EncodeToString(id[:])
	err = with(cmd, func(c *client.Client) error {
		return j.make(cmd, c, where.Address, &b, own)
	})
	if err != nil || j.out == "-" {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s: token %s for agent %s of rack %s, site %s, good once until %s\non the machine: chiba agent join %s --state /var/lib/chiba/agent\n",
		cli.Clean(j.out), b.Token, b.Name, b.Rack, b.Site, b.NotAfter.Local().Format(time.DateTime), cli.Clean(filepath.Base(j.out)))
	return nil
}

// make has the coordinators keep the token, and writes the bundle. A token whose
// bundle could not be written is revoked: nobody will ever have it.
func (j *joinToken) make(cmd *cobra.Command, c *client.Client, api string, b *enroll.Bundle, own trust.Credentials) error {
	if err := j.keep(cmd.Context(), c, api, b); err != nil {
		return err
	}
	text, err := b.Encode(own)
	if err == nil {
		err = j.write(cmd, text)
	}
	if err != nil {
		_, revoked := c.RevokeJoinToken(cmd.Context(), b.Token)
		err = errors.Join(err, revoked)
	}
	return err
}

// root is who signs the policy of authors: an agent does nothing without knowing.
func (j *joinToken) root(where client.Context) ([]byte, error) {
	path := cmp.Or(j.scriptRoot, filepath.Join(filepath.Dir(where.Key), sign.RootFile))
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, "make the join bundle", "no file "+path).
			WithHint("name the root of authors with --script-root FILE: an agent takes no script without it")
	}
	if _, err := sign.LoadRoot(path); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	return text, fault.Wrap(fault.BadInput, "read "+sign.RootFile, err)
}

// keep has the coordinators keep the public half of the token, and takes from them
// what the bundle lacks.
func (j *joinToken) keep(ctx context.Context, c *client.Client, api string, b *enroll.Bundle) error {
	public, err := enroll.Public(b.Secret)
	if err != nil {
		return err
	}
	kept, door, err := c.CreateJoinToken(ctx, client.JoinToken{
		ID: b.Token, Key: public, Agent: fleet.AgentName(b.Name), Rack: fleet.RackName(b.Rack), Replace: j.replace,
	}, j.ttl)
	if err != nil {
		return err
	}
	b.Site, b.NotAfter = door.Site, kept.Until.UTC()
	if j.site != "" && j.site != b.Site {
		_, err := c.RevokeJoinToken(ctx, b.Token)
		return errors.Join(fault.New(fault.Conflict, "make the join bundle", "the coordinator is of site "+b.Site+", not of "+j.site), err)
	}
	if len(b.Coordinators) == 0 {
		b.Coordinators = []string{reached(api, door.Mesh)}
	}
	return nil
}

// reached is where agents dial a coordinator that listens at mesh, by the host at
// which we have reached it ourselves.
func reached(api, mesh string) string {
	u, err := url.Parse(api)
	_, port, err2 := net.SplitHostPort(mesh)
	if err != nil || err2 != nil {
		return mesh
	}
	return net.JoinHostPort(u.Hostname(), port)
}

func (j *joinToken) write(cmd *cobra.Command, text []byte) error {
	text = append(text, '\n')
	if j.out == "-" {
		_, err := cmd.OutOrStdout().Write(text)
		return fault.Wrap(fault.Unavailable, "write the join bundle", err)
	}
	return fault.Wrap(fault.Unavailable, "write "+j.out, trust.WriteFile(j.out, 0o600, text))
}

type tokenView struct {
	ID      string          `json:"id"`
	Agent   fleet.AgentName `json:"agent"`
	Rack    fleet.RackName  `json:"rack"`
	Replace bool            `json:"replace,omitempty"`
	By      string          `json:"by"`
	Created time.Time       `json:"created"`
	Until   time.Time       `json:"until"`
	Used    time.Time       `json:"used,omitzero"`
	UsedBy  string          `json:"usedBy,omitempty"`
}

func tokenList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "list the join tokens, used and ended ones too",
		Example: "  chiba trust token list",
		Aliases: []string{"ls"},
		Args:    cli.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(cmd, func(c *client.Client) error {
				tokens, err := c.JoinTokens(cmd.Context())
				if err != nil {
					return err
				}
				views, l := []tokenView{}, cli.List{Names: []string{}}
				l.Table.Columns = cli.Columns("ID", "=AGENT", "RACK", "BY", "UNTIL", "STATE")
				for _, t := range tokens {
					views = append(views, tokenView{
						ID: t.ID, Agent: t.Agent, Rack: t.Rack, Replace: t.Replace, By: t.By, Created: t.Created, Until: t.Until, Used: t.Used, UsedBy: t.UsedBy,
					})
					l.Names = append(l.Names, t.ID)
					l.Table.Add(t.ID, string(t.Agent), string(t.Rack), t.By, t.Until.Local().Format(time.DateTime), tokenState(t, time.Now()))
				}
				l.Data = views
				return l.Print(cmd)
			})
		},
	}
}

func tokenState(t client.JoinToken, now time.Time) cli.Cell {
	switch {
	case !t.Used.IsZero():
		return cli.Cell{Text: "used " + t.Used.Local().Format(time.DateTime)}
	case now.After(t.Until):
		return cli.Cell{Text: "ended"}
	}
	return cli.Cell{Text: "open", Colour: cli.Good}
}

func tokenRevoke() *cobra.Command {
	return &cobra.Command{
		Use:     "revoke ID…",
		Short:   "make join tokens good for nobody; an agent that has joined by one stays",
		Example: "  chiba trust token revoke 5f0c2a9e1b7d4c38",
		Aliases: []string{"rm"},
		Args:    cli.Args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd, func(c *client.Client) error {
				for _, id := range args {
					t, err := c.RevokeJoinToken(cmd.Context(), id)
					if err != nil {
						return err
					}
					fmt.Fprintln(cmd.OutOrStdout(), cli.Clean("revoked: token "+t.ID+" for rack "+string(t.Rack)))
				}
				return nil
			})
		},
	}
}

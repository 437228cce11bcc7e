package ctl

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

const whom = `WHO is agent/NAME, operator/NAME, coordinator/NAME or rack/NAME; a key as its pin
"sha256/…" or spki/HEX; a certificate as serial/HEX; the BMC of
a server as serial:NUMBER, by the number that it tells. A key or a certificate may be
that of an authority: then everybody below it is meant.`

// Trust is `chiba trust`: who may speak, and below it the commands of others,
// who may sign.
func Trust(others ...*cobra.Command) *cobra.Command {
	cmd := cli.Parent(&cobra.Command{
		Use:     "trust",
		GroupID: cli.GroupChange,
		Short:   "who may speak, which BMC is believed, and who may sign what agents do",
		Example: "  chiba trust token create --rack r17 --out join.bundle\n  chiba trust deny agent/agent-r01 --reason 'the box was stolen'\n  chiba trust list\n  chiba trust explain r01-u04\n  chiba trust author show\n  chiba trust policy show",
	})
	cmd.AddCommand(trustDeny(), trustAllow(), trustList(), trustPending(), trustApprove(), trustExplain())
	cmd.AddCommand(others...)
	return cmd
}

func trustDeny() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "deny (WHO… --reason TEXT | CODE)",
		Short: "end the sessions of somebody and let them in no more; or deny who asks to join",
		Long: `End the sessions of somebody within a second, and let them in no more, at any
coordinator; the racks' agents are told too, and keep it while they are cut off.
With the CODE that a machine shows which asks to join, that machine is told no.

` + whom,
		Example:           "  chiba trust deny agent/agent-r01 --reason 'the box was stolen'\n  chiba trust deny serial/4f2a9c --reason 'a leaked key'",
		Args:              cli.Args(1, -1),
		ValidArgsFunction: completeSubjects,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && reason == "" && isCode(args[0]) {
				return with(cmd, func(c *client.Client) error { return denyCode(cmd.Context(), c, cmd, args[0]) })
			}
			if reason == "" {
				return cli.UsageError("a reason is needed", "add --reason TEXT: who lifts this later will ask for it")
			}
			return with(cmd, func(c *client.Client) error {
				for _, who := range args {
					d, err := c.Deny(cmd.Context(), who, reason)
					if err != nil {
						return err
					}
					fmt.Fprintln(cmd.OutOrStdout(), cli.Clean(fmt.Sprintf("%s is denied: %s (%s)", d.Subject, d.Reason, d.By)))
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, as a `text` for whoever meets it")
	return cmd
}

func trustAllow() *cobra.Command {
	return &cobra.Command{
		Use:               "allow WHO…",
		Short:             "end denials",
		Long:              "End denials. Only the coordinators can: an agent that is cut off keeps what it has.\n\n" + whom,
		Example:           "  chiba trust allow agent/agent-r01",
		Args:              cli.Args(1, -1),
		ValidArgsFunction: completeDenied,
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd, func(c *client.Client) error {
				for _, who := range args {
					d, err := c.Allow(cmd.Context(), who)
					if err != nil {
						return err
					}
					fmt.Fprintln(cmd.OutOrStdout(), cli.Clean(d.Subject+" is allowed again"))
				}
				return nil
			})
		},
	}
}

type denialView struct {
	Subject string    `json:"subject"`
	Reason  string    `json:"reason,omitempty"`
	By      string    `json:"by,omitempty"`
	At      time.Time `json:"at,omitzero"`
}

func viewDenial(d fleet.Denial) denialView { return denialView(d) }

func trustList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "list who is denied, and why",
		Example: "  chiba trust list",
		Aliases: []string{"ls", "denied"},
		Args:    cli.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(cmd, func(c *client.Client) error {
				denied, err := c.Denied(cmd.Context())
				if err != nil {
					return err
				}
				l := cli.List{Data: mapped(denied, viewDenial), Names: []string{}}
				l.Table.Columns = cli.Columns("=SUBJECT", "SINCE", "BY", "REASON")
				for _, d := range denied {
					l.Names = append(l.Names, d.Subject)
					l.Table.Add(d.Subject, ago(d.At), d.By, d.Reason)
				}
				return l.Print(cmd)
			})
		},
	}
}

func completeSubjects(cmd *cobra.Command, args []string, prefix string) (completion, cobra.ShellCompDirective) {
	return fromFleet(func(ctx context.Context, c *client.Client) (completion, error) {
		agents, err := c.Agents(ctx)
		var out completion
		for _, a := range agents {
			out = append(out, "agent/"+string(a.Name), "rack/"+string(a.Rack))
		}
		return out, err
	})(cmd, args, prefix)
}

func completeDenied(cmd *cobra.Command, args []string, prefix string) (completion, cobra.ShellCompDirective) {
	return fromFleet(func(ctx context.Context, c *client.Client) (completion, error) {
		denied, err := c.Denied(ctx)
		var out completion
		for _, d := range denied {
			out = append(out, d.Subject)
		}
		return out, err
	})(cmd, args, prefix)
}

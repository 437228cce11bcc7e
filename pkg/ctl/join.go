package ctl

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

type pendingView struct {
	Agent  fleet.AgentName `json:"agent"`
	Rack   fleet.RackName  `json:"rack"`
	Key    string          `json:"key"`
	Remote string          `json:"remote"`
	Asked  time.Time       `json:"asked"`
	Until  time.Time       `json:"until"`
	Judged string          `json:"judged,omitempty"`
}

func viewPending(p client.PendingJoin) pendingView {
	return pendingView{Agent: p.Agent, Rack: p.Rack, Key: p.Key, Remote: p.Remote, Asked: p.Asked, Until: p.Until, Judged: judged(p)}
}

func judged(p client.PendingJoin) string {
	switch {
	case p.JudgedBy == "":
		return ""
	case p.Approved:
		return "approved by " + p.JudgedBy
	}
	return "denied by " + p.JudgedBy
}

func trustPending() *cobra.Command {
	return &cobra.Command{
		Use:   "pending",
		Short: "list the machines that ask to join and wait for approval",
		Long: `List the machines that ask to join and wait for approval. The codes are not shown
here: each is on the screen of its machine, and who approves has seen it there.
Compare the key, too.`,
		Example: "  chiba trust pending",
		Args:    cli.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(cmd, func(c *client.Client) error {
				pending, err := c.PendingJoins(cmd.Context())
				if err != nil {
					return err
				}
				l := cli.List{Data: mapped(pending, viewPending), Names: []string{}}
				l.Table.Columns = cli.Columns("=AGENT", "RACK", "KEY", "FROM", "ASKED", "ENDS", "JUDGED")
				for _, p := range pending {
					l.Names = append(l.Names, string(p.Agent))
					l.Table.Add(string(p.Agent), string(p.Rack), p.Key, p.Remote, ago(p.Asked), "in "+ago(time.Now().Add(-time.Until(p.Until))), judged(p))
				}
				return l.Print(cmd)
			})
		},
	}
}

func trustApprove() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "approve CODE",
		Short: "let the machine that shows a code become the agent of its rack",
		Long: `Let the machine that shows a code become the agent of its rack. It says which one
that is, and asks: compare the key with the one that the machine shows.`,
		Example: "  chiba trust approve WDJB-MJHT",
		Args:    cli.Args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd, func(c *client.Client) error {
				p, err := c.PendingWith(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				what := fmt.Sprintf("agent %s of rack %s, key %s, from %s", p.Agent, p.Rack, p.Key, p.Remote)
				if !yes && cli.Asks(cmd) && !cli.Ask(cmd, "let it in: "+cli.Clean(what)+"?") {
					return &cli.Exit{Code: cli.Fail, Err: fault.New(fault.Canceled, "", "nobody was let in")}
				}
				if p, err = c.JudgeJoin(cmd.Context(), args[0], true); err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), cli.Clean("approved: "+what))
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "don't ask")
	return cmd
}

// isCode reports whether a person means the code of a machine, and not somebody who is
// to be denied: those are written with their kind.
func isCode(who string) bool { return !strings.Contains(who, "/") }

// denyCode denies a machine that asks to join.
func denyCode(ctx context.Context, c *client.Client, cmd *cobra.Command, code string) error {
	p, err := c.JudgeJoin(ctx, code, false)
	if err != nil {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout(), cli.Clean(fmt.Sprintf("denied to join: agent %s of rack %s, key %s, from %s", p.Agent, p.Rack, p.Key, p.Remote)))
	return nil
}

package ctl

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

func deleteCommand() *cobra.Command {
	cmd := cli.Parent(&cobra.Command{
		Use:     "delete",
		GroupID: cli.GroupChange,
		Short:   "end the force of a script",
		Example: "  chiba delete script thermal",
		Aliases: []string{"remove"},
	})
	script := &cobra.Command{
		Use:               "script NAME…",
		Short:             "end the force of scripts; what they did is not undone",
		Example:           "  chiba delete script thermal",
		Args:              cli.Args(1, -1),
		ValidArgsFunction: completeScripts,
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd, func(c *client.Client) error {
				for _, name := range args {
					if err := c.RemoveScript(cmd.Context(), fleet.ScriptName(name)); err != nil {
						return err
					}
					fmt.Fprintln(cmd.OutOrStdout(), cli.Clean(name)+" is no longer in force")
				}
				return nil
			})
		},
	}
	addKeyFlag(script)
	cmd.AddCommand(script)
	return cmd
}

func cancelCommand() *cobra.Command {
	cmd := cli.Parent(&cobra.Command{
		Use:     "cancel",
		GroupID: cli.GroupChange,
		Short:   "stop a run",
		Example: "  chiba cancel run R7",
	})
	run := &cobra.Command{
		Use:               "run ID",
		Short:             "stop a run: steps that have not begun are skipped",
		Example:           "  chiba cancel run R7",
		Args:              cli.Args(1, 1),
		ValidArgsFunction: completeRuns,
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd, func(c *client.Client) error {
				r, err := c.CancelRun(cmd.Context(), fleet.RunID(args[0]))
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), cli.Clean(describeRun(*r)))
				return nil
			})
		},
	}
	addKeyFlag(run)
	cmd.AddCommand(run)
	return cmd
}

package ctl

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
)

func getCoordinators() *cobra.Command {
	return &cobra.Command{
		Use:     "coordinators",
		Short:   "list the coordinators that decide together; * answers",
		Example: "  chiba get coordinators\n  chiba get coordinators -o json",
		Aliases: []string{"coordinator"},
		Args:    cli.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(cmd, func(c *client.Client) error {
				all, err := c.Coordinators(cmd.Context())
				if err != nil {
					return err
				}
				l := cli.List{Data: mapped(all, viewCoordinator), Names: []string{}}
				l.Table.Columns = cli.Columns("=NAME", "ROLE", "VOTER", "BEHIND", "APPLIED", "AGENTS", "ADDRESS", "PROBLEM")
				for _, one := range all {
					l.Names = append(l.Names, one.Name)
					l.Table.Add(one.Name+mark(one), role(one), yesNo(one.Voter), lag(one), one.Applied, one.Agents, one.Address,
						cli.Cell{Text: one.Problem, Colour: cli.Bad})
				}
				if err := l.Print(cmd); err != nil {
					return err
				}
				printNext(cmd, all)
				return nil
			})
		},
	}
}

// printNext says what to do about coordinators with a problem, below a table.
func printNext(cmd *cobra.Command, all []client.Coordinator) {
	if format, err := cli.OutputOf(cmd); err != nil || format != cli.TableFormat && format != cli.WideFormat {
		return
	}
	for _, one := range all {
		if one.Next != "" {
			fmt.Fprintf(cmd.OutOrStdout(), "\n%s: %s\n  then: %s\n", cli.Clean(one.Name), cli.Clean(one.Problem), cli.Clean(one.Next))
		}
	}
}

func mark(c client.Coordinator) string {
	if c.Answering {
		return " *"
	}
	return ""
}

func role(c client.Coordinator) cli.Cell {
	switch c.Role {
	case "leader":
		return cli.Cell{Text: c.Role, Colour: cli.Good}
	case "":
		return cli.Cell{Text: "unknown", Colour: cli.Bad}
	}
	return cli.Cell{Text: c.Role}
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// lag is how long ago it heard of the leader, if that is longer than the leader is
// ever silent.
func lag(c client.Coordinator) string {
	if c.Behind < time.Second {
		return ""
	}
	return c.Behind.Round(time.Second).String()
}

// RemoveCoordinator is `chiba coordinator remove`, for the command that runs one.
func RemoveCoordinator(authors Authors) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "take a coordinator out of the group",
		Long: `Take a coordinator out of the group: one that is gone for good, or shall be.

The others no longer wait for it. To come back it must begin with an empty state
directory and --join. Its certificate stays good until it is denied with: chiba
trust deny coordinator/NAME.`,
		Example: "  chiba get coordinators\n  chiba coordinator remove c3",
		Args:    cli.Args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd, func(c *client.Client) error {
				if err := c.RemoveCoordinator(cmd.Context(), args[0]); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s is out of the group\n", cli.Clean(args[0]))
				return nil
			})
		},
	}
	authors.give(cmd)
	return cmd
}

package ctl

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/scl/compile"
)

// powerStates are what (power …) of an action takes.
var powerStates = []string{"on", "off", "graceful-off", "cycle", "reset", "graceful-restart", "nmi"}

func powerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "power STATE TARGET",
		GroupID: cli.GroupChange,
		Short:   "switch nodes on or off, cycle or reset them, once",
		Long: `Switch nodes on or off, cycle or reset them, once. STATE is on, off, graceful-off,
cycle, reset, graceful-restart or nmi; TARGET is as in chiba show.

It is short for a script with (action TARGET (power STATE)), and asks, runs and
ends as chiba apply does. Where nobody can answer, it needs --yes.`,
		Example:    "  chiba power cycle r01-u04\n  chiba power graceful-off 'r01-u[05-08]' --yes",
		SuggestFor: []string{"reboot", "reset", "restart", "shutdown", "poweroff", "poweron"},
		Args:       cli.Args(2, 2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return powerStates, cobra.ShellCompDirectiveNoFileComp
			}
			return completeShow(cmd, args[1:], prefix)
		},
	}
	f := applyFlags{name: "power"}
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "don't ask")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "print the plan and change nothing")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 10*time.Minute, "how long it may take")
	addKeyFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := action(cmd, target(args[1]), "(power "+args[0]+")")
		if err != nil {
			return err
		}
		return with(cmd, func(c *client.Client) error { return apply(cmd, c, []script{s}, f) })
	}
	return cmd
}

// action is a script that does one thing once.
func action(cmd *cobra.Command, target, what string) (script, error) {
	src := client.Source{File: arguments, Text: []byte("(action " + target + " " + what + ")")}
	program, diags := compile.Source(src.File, src.Text)
	if diags.Errors() > 0 {
		printLines(cmd.ErrOrStderr(), diags.String())
		return script{}, cli.UsageError(cmd.CommandPath()+" can't use these arguments", helpOf(cmd))
	}
	if len(program.Steps) != 1 || len(program.Steps[0].Action) != 1 || program.Standing() {
		return script{}, cli.UsageError("the arguments of "+cmd.CommandPath()+" are more than one form", "give forms to chiba apply, in a file")
	}
	return script{source: src, program: program, warnings: diags.String()}, nil // nobody wrote a script
}

func helpOf(cmd *cobra.Command) string { return "see: " + cmd.CommandPath() + " --help" }

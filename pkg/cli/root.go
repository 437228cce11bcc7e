// Package cli is the framework of the commands: exit codes, errors with hints,
// tables that fit the terminal, machine-readable output, live progress. It
// knows no fleet.
package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// The groups of the top-level help.
const (
	GroupSee    = "see"    // reads
	GroupChange = "change" // writes
	GroupRun    = "run"    // processes: dev, coordinator, agent, sim
	GroupTools  = "tools"
)

// NewRoot is the command chiba with the flags that all commands share.
func NewRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "chiba",
		Short: "run whole data centres through their BMCs",
		Long: `chiba runs whole data centres through their BMCs.

A script in SCL says what the servers shall be, what is to be watched and
what is to be done; coordinators keep it, agents in the racks carry it out.

It exits with 0 when all went well, 1 when it failed, 2 when the command line
is wrong, and 3 when a part failed.`,
		Example: `  chiba dev                                 # a fleet to play with, in one process
  chiba apply docs/examples/thermal.scl     # put a script into force
  chiba show 'r01-*' cpu.temp power.watts   # read sensors now
  chiba watch                               # see rules fire
  sudo chiba --agent get nodes              # on the rack itself, with no coordinator`,
	}
	equip(Parent(root))
	root.PersistentFlags().String("agent", "", "ask the agent of this machine, at its `socket`, and no coordinator (--agent or --agent=SOCKET)")
	root.PersistentFlags().Lookup("agent").NoOptDefVal = "default"
	root.AddGroup(
		&cobra.Group{ID: GroupSee, Title: "See:"},
		&cobra.Group{ID: GroupChange, Title: "Change:"},
		&cobra.Group{ID: GroupRun, Title: "Run:"},
		&cobra.Group{ID: GroupTools, Title: "Tools:"},
	)
	root.SetHelpCommandGroupID(GroupTools)
	root.SetCompletionCommandGroupID(GroupTools)
	return root
}

// Alone makes cmd a program of its own with the flags and manners of chiba.
func Alone(cmd *cobra.Command) *cobra.Command {
	cmd.GroupID = ""
	equip(cmd)
	return cmd
}

// equip gives a root the flags that all commands share, and its manners.
func equip(root *cobra.Command) {
	root.SilenceUsage, root.SilenceErrors = true, true
	root.Version = Build().String()
	root.PersistentFlags().String("state", "", "state `directory` that holds context.yaml (default $CHIBA_STATE, else .chiba here or above)")
	root.PersistentFlags().StringP("output", "o", "table", "output `format`: "+strings.Join(formats, ", "))
	root.PersistentFlags().Bool("no-headers", false, "tables without their header")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		_, err := OutputOf(cmd)
		return err
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if errors.Is(err, pflag.ErrHelp) {
			return err
		}
		return UsageError(lowerFirst(err.Error()), helpHint(cmd))
	})
	_ = root.RegisterFlagCompletionFunc("output", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return formats, cobra.ShellCompDirectiveNoFileComp
	})
}

// Parent makes cmd a command that only has subcommands: alone it prints its
// help, with a word it doesn't know it is a usage error that suggests.
func Parent(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.SuggestionsMinimumDistance = 2
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return noCommand(cmd, args)
	}
	return cmd
}

// noCommand is the usage error for a word that is no command of cmd.
func noCommand(cmd *cobra.Command, args []string) error {
	hint := helpHint(cmd)
	if subs := cmd.Commands(); len(subs) == 1 && len(args) == 1 { // delete NAME: one kind alone can be meant
		hint = "did you mean: " + subs[0].CommandPath() + " " + args[0]
	} else if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
		hint = "did you mean " + strings.Join(s, " or ") + "?"
	}
	return UsageError(fmt.Sprintf("%s has no command %q", cmd.CommandPath(), args[0]), hint)
}

// help is what `chiba help WORD…` does.
func help(cmd *cobra.Command, args []string) error {
	about, rest, err := cmd.Root().Find(args)
	if err != nil {
		return err
	}
	if len(rest) > 0 && about.HasSubCommands() {
		return noCommand(about, rest)
	}
	about.InitDefaultHelpFlag()
	return about.Help()
}

// Args says in the words of the command what arguments it takes: at least least
// and at most most of them, or any number for most < 0.
func Args(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch n := len(args); {
		case n < least:
			return UsageError(cmd.CommandPath()+" needs more arguments: "+cmd.UseLine(), helpHint(cmd))
		case most == 0 && n > 0:
			return UsageError(fmt.Sprintf("%s takes no argument, got %q", cmd.CommandPath(), args[0]), helpHint(cmd))
		case most >= 0 && n > most:
			return UsageError(fmt.Sprintf("%s takes no more than %d arguments, got %d", cmd.CommandPath(), most, n), helpHint(cmd))
		}
		return nil
	}
}

func helpHint(cmd *cobra.Command) string { return "see: " + cmd.CommandPath() + " --help" }

func lowerFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}

// State is the value of --state.
func State(cmd *cobra.Command) string { return text(cmd, "state") }

// Agent is the value of --agent: the path of a socket, "default" for wherever it is,
// or "" if a coordinator is meant.
func Agent(cmd *cobra.Command) string { return text(cmd, "agent") }

// text is a string flag's value, "" if cmd has no such flag.
func text(cmd *cobra.Command, name string) string {
	f := cmd.Flag(name)
	if f == nil {
		return ""
	}
	return f.Value.String()
}

// BadFormat is the usage error for an output format that a command doesn't
// have.
func BadFormat(f Format, have ...Format) error {
	names := make([]string, len(have))
	for i, h := range have {
		names[i] = string(h)
	}
	return &Exit{Code: Usage, Err: fault.New(fault.BadInput, "", "no output format "+string(f)+" here").
		WithHint("use -o " + strings.Join(names, ", -o "))}
}

package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/agent/enroll"
	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/trust"
)

// Program is `chiba agent` as a program of its own, chiba-agent.
func Program() *cobra.Command {
	cmd := Command()
	cmd.Use = strings.Replace(cmd.Use, "agent", "chiba-agent", 1)
	for _, c := range append(cmd.Commands(), cmd) {
		c.Example = strings.ReplaceAll(c.Example, "chiba agent", "chiba-agent")
	}
	return cli.Alone(cmd)
}

// Command is `chiba agent`. It runs until its context ends, which is no error.
func Command() *cobra.Command {
	var config, state, bundle string
	var verbose bool
	cmd := &cobra.Command{
		Use:     "agent (--config FILE | --state DIR [--join BUNDLE])",
		GroupID: cli.GroupRun,
		Short:   "run the agent of a rack",
		Long: `Run the agent of a rack: it finds the BMCs of its catalogue, watches the standing
rules, and does the rack's part of every run, also while it reaches no coordinator.

It logs to stderr and ends with SIGINT or SIGTERM, after it has logged out from
every BMC. deploy/agent.yaml shows every field of its configuration.`,
		Example: "  chiba agent --config /etc/chiba/agent.yaml\n  chiba agent --state .chiba/agent --verbose\n  chiba agent join join.bundle --state /var/lib/chiba/agent",
		Args:    cli.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if bundle != "" {
				if err := joinFirst(cmd, bundle, state); err != nil {
					return err
				}
			}
			cfg, err := configOf(cmd, config, state)
			if err != nil {
				return err
			}
			level := slog.LevelInfo
			if verbose {
				level = slog.LevelDebug
			}
			cfg.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			a, err := New(cfg)
			if err != nil {
				return err
			}
			thrift()
			if err := a.Run(cmd.Context()); err != nil && !errors.Is(err, cmd.Context().Err()) {
				return err
			}
			return nil
		},
	}
	cmd.AddCommand(joinCommand(), denyCommand(), recoveryKeyCommand(), recoverCommand())
	flags := cmd.Flags()
	flags.StringVar(&config, "config", "", "configuration `file`")
	flags.StringVar(&state, "state", "", "`directory` with "+ConfigFile+", the credentials and the spool")
	flags.StringVar(&bundle, "join", "", "join by this `bundle` first, unless that was done")
	flags.BoolVarP(&verbose, "verbose", "v", false, "log more")
	return cmd
}

// thrift has the process hold less memory than Go would by itself, unless GOGC says
// what it shall do. Agents have memory to spare nowhere and time nearly always: a
// rack of 40 takes about a tenth less so.
func thrift() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
}

// joinFirst joins by a bundle; after that has been done once, it does nothing.
func joinFirst(cmd *cobra.Command, bundle, state string) error {
	j := joining{state: state, bundle: bundle}
	if err := j.usage(); err != nil {
		return err
	}
	token, err := enroll.ReadState(filepath.Join(state, enroll.StateFile))
	if err != nil {
		return err
	}
	// The bundle may have ended since, and may be gone.
	if _, err := trust.Load(state); err == nil && token.Counter > 0 {
		return nil
	}
	return j.run(cmd)
}

// configOf is the configuration that the flags name: a file, or a state directory
// that holds one.
func configOf(cmd *cobra.Command, file, state string) (Config, error) {
	if (file == "") == (state == "") {
		return Config{}, cli.UsageError(cmd.CommandPath()+" needs either --config or --state",
			cmd.CommandPath()+" --state DIR reads DIR/"+ConfigFile)
	}
	if file == "" {
		file = filepath.Join(state, ConfigFile)
	}
	cfg, err := ReadConfig(file)
	if err == nil && state != "" {
		cfg.State = state
	}
	return cfg, err
}

// denyCommand is `chiba agent deny`, for a rack that reaches no coordinator.
func denyCommand() *cobra.Command {
	var state, reason string
	cmd := &cobra.Command{
		Use:   "deny WHO --state DIR --reason TEXT",
		Short: "deny somebody at this agent, also while it is cut off",
		Long: `Deny somebody at this agent, which takes it within a heartbeat, or when it starts.
When it reaches the coordinators it tells them, and the whole mesh denies them;
ending it is then theirs: chiba trust allow. An agent can so deny its own rack,
keys and certificates; what else it denies holds at this agent alone.

WHO is
` + trust.SubjectRule + `.`,
		Example: "  chiba agent deny spki/9f86… --state /var/lib/chiba/agent --reason 'the coordinator was stolen'",
		Args:    cli.Args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if state == "" || reason == "" {
				return cli.UsageError("--state and --reason are needed", cmd.CommandPath()+" "+args[0]+" --state DIR --reason TEXT")
			}
			d, err := denyHere(state, args[0], reason)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), cli.Clean(d.Subject+" will be denied here: "+d.Reason))
			return nil
		},
	}
	cmd.Flags().StringVar(&state, "state", "", "the agent's state `directory`")
	cmd.Flags().StringVar(&reason, "reason", "", "why, as a `text` for whoever meets it")
	return cmd
}

package dev

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
)

// Command is `chiba dev`. The examples are the files of docs/examples; root
// makes a fresh command tree, in which --demo runs the commands it shows.
func Command(examples fs.FS, root func() *cobra.Command) *cobra.Command {
	var opts Options
	var only string
	var demo, verbose bool
	cmd := &cobra.Command{
		Use:     "dev",
		GroupID: cli.GroupRun,
		Short:   "a fleet to play with: coordinator, agent and a simulated rack",
		Long: `Run a coordinator, an agent and a rack of eight simulated BMCs on this machine.

They speak as in a data centre: mutual-TLS QUIC, Raft on disk, Redfish over
verified HTTPS, discovery over mDNS. Nothing needs root and nothing leaves the
loopback interface. All state is in one directory, so a second start continues
where the first was stopped. Ctrl-C stops it; the client commands find it
without flags.

The parts can run as processes of their own, to see what happens when one of
them dies: chiba dev --only sim, --only coordinator, --only agent, and with --standby
--only standby. Of several the others have a number: --only coordinator-2, --only
agent-3.`,
		Example: `  chiba dev                       # then, in another terminal:
  chiba apply docs/examples/thermal.scl
  chiba sim set ai-node-0 cpu.temp 95
  chiba watch

  chiba dev --coordinators 3 --racks 3   # kill one: chiba get coordinators
  chiba dev --standby             # who works on the rack: chiba get agents
  chiba dev --demo                # plays this once before your eyes
  chiba dev --bmc lab-1=https://10.0.0.5 --bmc-user root --bmc-password-file pw`,
		Args: cli.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts.State = stateDir(cli.State(cmd))
			if only != "" {
				if kind, _, ok := numberOf(only); !ok || !slices.Contains(allParts, kind) {
					return cli.UsageError(fmt.Sprintf("--only %q is no part of a fleet", only), "one of "+strings.Join(allParts, ", "))
				}
				opts.Parts = []string{only}
			}
			if err := (size{opts.Coordinators, opts.Racks, opts.Standby}).check(); err != nil {
				return &cli.Exit{Code: cli.Usage, Err: err}
			}
			if (opts.User == "") != (opts.PasswordFile == "") {
				return cli.UsageError("--bmc-user and --bmc-password-file go together", "without them OpenBMC's factory login is used")
			}
			for _, own := range opts.Own {
				if _, err := parseBMC(own); err != nil {
					return &cli.Exit{Code: cli.Usage, Err: err}
				}
			}
			opts.Out = cmd.OutOrStdout()
			opts.Log = logger(cmd, verbose)
			if demo {
				tour := tour{examples: examples, root: root, state: opts.State, out: opts.Out}
				opts.Ready = tour.play
			} else if only == "" {
				opts.Ready = func(context.Context) error { nextSteps(opts.Out); return nil }
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			return Run(ctx, opts)
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&opts.Own, "bmc", nil, "add a BMC that is not simulated: `[NAME=]https://HOST[:PORT]`; repeatable")
	flags.StringVar(&opts.User, "bmc-user", "", "log in on those BMCs as this `user` (default: OpenBMC's factory login)")
	flags.StringVar(&opts.PasswordFile, "bmc-password-file", "", "`file` with that user's password")
	flags.StringVar(&only, "only", "", "run one `part` alone: "+strings.Join(allParts, ", "))
	_ = cmd.RegisterFlagCompletionFunc("only", cobra.FixedCompletions(allParts, cobra.ShellCompDirectiveNoFileComp))
	flags.IntVar(&opts.Coordinators, "coordinators", 0, "how `many` coordinators: 1, 3 or 5 (default 1, or as it was)")
	flags.IntVar(&opts.Racks, "racks", 0, "how `many` racks, each with an agent (default 1, or as it was)")
	flags.BoolVar(&opts.Standby, "standby", false, "two agents for each rack: one works, the other takes over (or as it was)")
	flags.BoolVar(&demo, "demo", false, "play the main job once when ready, then stay up")
	flags.BoolVar(&verbose, "verbose", false, "log what happens inside, to stderr")
	return cmd
}

// stateDir is where the fleet lives: an absolute path, so that everything that
// is written into it means the same from anywhere.
func stateDir(flag string) string {
	if flag == "" {
		flag = os.Getenv(client.StateVar)
	}
	if flag == "" {
		flag = client.StateDir
	}
	if abs, err := filepath.Abs(flag); err == nil {
		return abs
	}
	return flag
}

// logger writes to stderr: for a person warnings and what rules did, or with
// verbose everything.
func logger(cmd *cobra.Command, verbose bool) *slog.Logger {
	if !verbose {
		return slog.New(newTeller(cmd.ErrOrStderr()))
	}
	return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

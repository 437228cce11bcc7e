package coordinator

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
)

// Command is `chiba coordinator`, with the commands about coordinators under it.
func Command(about ...*cobra.Command) *cobra.Command {
	var c Config
	var certs, authority string
	var verbose bool
	cmd := &cobra.Command{
		Use:     "coordinator --state DIR",
		GroupID: cli.GroupRun,
		Short:   "run a coordinator",
		Long: `Run a coordinator: it keeps the scripts, lets the racks' agents in, hands them
their work, records what came of it, and serves the API.

Its certificate says who it is. The directory of --certs holds cert.pem, key.pem
and ca.pem; script-root.json, the keys that sign the policy of authors; and
policy.dsse, a policy to begin with. That of --state holds the log, and belongs
to one coordinator for good. It ends with SIGINT or SIGTERM.

Three or five of them decide together, and go on while a majority lives. Each is
started with --peer-addr, the same --expect, and a --join to any of the others;
when all have met, they begin. One more joins them later with --join alone. From
then on the log says who is of the group, and both flags mean nothing.`,
		Example: `  chiba coordinator --state /var/lib/chiba --certs /etc/chiba
  chiba coordinator --state /var/lib/chiba --certs /etc/chiba \
      --peer-addr :7444 --advertise c1.example:7444 --expect 3 --join c2.example:7444`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.Dir == "" {
				return cli.UsageError("a state directory is needed", "add --state DIR")
			}
			if certs == "" {
				certs = c.Dir
			}
			var err error
			if c.Credentials, err = trust.Load(certs); err != nil {
				return &fault.Error{
					Kind: fault.KindOf(err), Err: err,
					Hint: "cert.pem, key.pem and ca.pem are needed in " + certs + "; --certs names another directory",
				}
			}
			c.Certs = certs
			if err = c.LoadAuthors(certs); err != nil {
				return err
			}
			if c.Authority, err = openAuthority(authority, filepath.Join(certs, "site-ca")); err != nil {
				return err
			}
			level := slog.LevelInfo
			if verbose {
				level = slog.LevelDebug
			}
			c.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			c.Build = build()
			thrift()
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			return run(ctx, cmd, c)
		},
	}
	cmd.AddCommand(about...)
	flags := cmd.Flags()
	flags.StringVar(&c.Dir, "state", "", "`directory` of the log")
	flags.StringVar(&certs, "certs", "", "`directory` of cert.pem, key.pem and ca.pem (default that of --state)")
	flags.StringVar(&authority, "site-ca", "", "`directory` of the site's CA, to renew the agents' certificates (default site-ca in that of --certs, if it is there)")
	flags.StringVar(&c.MeshAddr, "mesh-addr", ":7443", "`address` for agents (QUIC, UDP)")
	flags.StringVar(&c.MeshTCPAddr, "mesh-tcp-addr", "", "`address` for agents that UDP does not reach (TLS, TCP), for example :7445 (default: none)")
	flags.StringVar(&c.APIAddr, "api-addr", ":7443", "`address` for people and programs (HTTPS, TCP)")
	flags.StringVar(&c.PeerAddr, "peer-addr", "", "`address` for other coordinators (QUIC, UDP), for example :7444 (default: there are none)")
	flags.StringVar(&c.Advertise, "advertise", "", "`host:port` at which the others reach --peer-addr")
	flags.StringArrayVar(&c.Join, "join", nil, "`host:port` of another coordinator; repeatable")
	flags.IntVar(&c.Expect, "expect", 0, "how `many` coordinators begin a new group, this one among them")
	flags.DurationVar(&c.Lease, "lease", 30*time.Second, "`how long` an agent of a pair must be silent before its standby gets its rack")
	flags.BoolVarP(&verbose, "verbose", "v", false, "log more")
	return cmd
}

// openAuthority opens the CA of the site: the one that is asked for, or else the one
// that lies where it is looked for, if there is one.
func openAuthority(asked, usual string) (*ca.Site, error) {
	if asked != "" {
		return ca.OpenSite(asked)
	}
	if _, err := os.Stat(usual); err != nil {
		return nil, nil //nolint:nilnil,nilerr // none is no error: somebody else renews
	}
	return ca.OpenSite(usual)
}

func run(ctx context.Context, cmd *cobra.Command, conf Config) error {
	c, err := New(conf)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "agents: %s\napi: https://%s\n", c.MeshAddr(), c.APIAddr())
	if at := c.MeshTCPAddr(); at != "" {
		fmt.Fprintf(cmd.OutOrStdout(), "agents over TCP: %s\n", at)
	}
	if at := c.PeerAddr(); at != "" {
		fmt.Fprintf(cmd.OutOrStdout(), "coordinators: %s\n", at)
	}
	return c.Run(ctx)
}

// thrift has the process hold less memory than Go would by itself, unless GOGC says what
// it shall do: what it holds for ten thousand agents hardly changes, so that looking for
// garbage twice as often costs little.
func thrift() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
}

// build is the version that the binary was built from.
func build() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return ""
}

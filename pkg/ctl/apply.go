package ctl

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// applyFlags are the flags of apply.
type applyFlags struct {
	yes, dryRun, allowEmpty bool
	name                    string
	prepare                 string // file to write the signed script to, instead of applying it
	timeout                 time.Duration
}

func applyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "apply FILE…",
		GroupID: cli.GroupChange,
		Short:   "put scripts into force: plan, ask, run, tell what became of it",
		Long: `Put scripts into force: plan, ask, run, tell what became of it.

The standing part of a script (config, monitor, group) stays in force under the
script's name, the file's base name unless --name gives another; the rest is
done once. FILE - is standard input.

On a terminal it asks before it changes anything. Where nobody can answer it
goes on unasked, except when the script could hurt a server that works: an
action other than log, wait and set-indicator, or a power.state of off. That
needs --yes.

What is applied is signed with your author key (chiba trust author init), and
agents run nothing else. Where the policy asks for two authors, --prepare FILE.dsse
signs it and writes it to a file, another author adds a signature with chiba sign
FILE.dsse, and either of you applies that file.

A rack that is cut off gets its part when it is back; apply doesn't wait for it
and exits with 3. Ctrl-C stops the watching, not the run.`,
		Example: `  chiba apply docs/examples/thermal.scl
  chiba apply --yes --timeout 20m power.scl
  chiba apply --dry-run -o json rack.scl
  generate | chiba apply --name nightly -
  chiba apply --prepare power.dsse power.scl && chiba sign power.dsse && chiba apply power.dsse`,
		Args:              cli.Args(1, -1),
		ValidArgsFunction: completeFiles,
	}
	var f applyFlags
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "don't ask")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "print the plan and change nothing, as chiba plan")
	cmd.Flags().BoolVar(&f.allowEmpty, "allow-empty", false, "no error if a target matches no node")
	cmd.Flags().StringVar(&f.name, "name", "", "the script's `name`, if not the file's")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 0, "how long the run may take (default 1h, in waves 24h)")
	cmd.Flags().StringVar(&f.prepare, "prepare", "", "sign it, write it to this `file`, and apply nothing")
	addKeyFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := f.check(args); err != nil {
			return err
		}
		scripts, err := readScripts(cmd, args)
		if err != nil {
			return err
		}
		return with(cmd, func(c *client.Client) error {
			if f.prepare != "" {
				return prepare(cmd, c, scripts[0], f)
			}
			return apply(cmd, c, scripts, f)
		})
	}
	return cmd
}

// preparedFor is how long a prepared script may be begun: others have to look at it.
const preparedFor = 24 * time.Hour

// prepare has a script signed and writes it to a file.
func prepare(cmd *cobra.Command, c *client.Client, s script, f applyFlags) error {
	if f.timeout == 0 {
		f.timeout = preparedFor
	}
	s.source.AllowEmpty = f.allowEmpty
	signed, err := c.Prepare(cmd.Context(), s.source, client.ApplyOptions{Name: f.name, Timeout: f.timeout})
	if err != nil {
		return sent(cmd, err)
	}
	data, err := signed.Encode()
	if err != nil {
		return err
	}
	if err = os.WriteFile(f.prepare, data, 0o600); err != nil {
		return fault.Wrap(fault.Unavailable, "write "+f.prepare, err)
	}
	o, err := signed.Order()
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s: signed to %s\n", cli.Clean(f.prepare), cli.Clean(o.String()))
	return nil
}

func (f applyFlags) check(files []string) error {
	switch {
	case f.prepare != "" && (len(files) > 1 || f.dryRun):
		return cli.UsageError("--prepare is for a single script, and changes nothing by itself", "prepare the files one by one")
	case f.prepare != "" && !strings.HasSuffix(f.prepare, signedSuffix):
		return cli.UsageError("a signed script's file ends in "+signedSuffix, "for example: --prepare power"+signedSuffix)
	case f.name != "" && len(files) > 1:
		return cli.UsageError("--name is for a single script", "apply the files one by one")
	case f.name == "" && len(files) == 1 && files[0] == "-" && !f.dryRun:
		return cli.UsageError("a script from standard input needs a name", "add --name NAME")
	case f.timeout < 0:
		return cli.UsageError("--timeout must not be negative", "try --timeout 20m")
	}
	return nil
}

// application is what became of one script, for -o json.
type application struct {
	Plan     planView `json:"plan"`
	Revision uint64   `json:"revision,omitempty"`
	Warnings string   `json:"warnings,omitempty"`
	Run      *runView `json:"run,omitempty"`
}

func apply(cmd *cobra.Command, c *client.Client, scripts []script, f applyFlags) error {
	format, err := cli.OutputOf(cmd)
	if err != nil {
		return err
	}
	for i := range scripts {
		if scripts[i].signed == nil { // which has its name
			scripts[i].name = f.name
		}
	}
	plans, err := makePlans(cmd, c, scripts, f.allowEmpty)
	if err != nil {
		return err
	}
	if f.dryRun {
		return showPlans(cmd, plans)
	}
	if !format.Machine() {
		for _, p := range plans {
			p.print(cmd.OutOrStdout())
		}
		fmt.Fprintln(cmd.OutOrStdout())
	}
	if err := consent(cmd, plans, f.yes); err != nil {
		return err
	}
	done := []application{}
	var worst error
	for _, p := range plans {
		a, err := applyOne(cmd, c, p, f, !format.Machine())
		if a != nil {
			done = append(done, *a)
		}
		worst = worse(worst, err)
		if err != nil && cli.Code(err) != cli.Partly {
			break // what follows may build on it
		}
	}
	if format.Machine() {
		if err := cli.Encode(cmd.OutOrStdout(), format, done); err != nil {
			return err
		}
	}
	return worst
}

// worse is the error that counts: a whole failure before a partial one.
func worse(a, b error) error {
	if a == nil || b != nil && cli.Code(a) == cli.Partly {
		return b
	}
	return a
}

// consent asks, or decides where nobody can be asked.
func consent(cmd *cobra.Command, plans []plan, yes bool) error {
	var risks []string
	reads := true
	for _, p := range plans {
		risks = append(risks, p.risks()...)
		reads = reads && p.reads()
	}
	switch {
	case yes || reads:
		return nil
	case cli.Asks(cmd) && !fromStdin(plans):
		if format, _ := cli.OutputOf(cmd); format.Machine() { // which keeps the plan for the end
			for _, p := range plans {
				p.print(cmd.ErrOrStderr())
			}
		}
		if cli.Ask(cmd, question(risks)) {
			return nil
		}
		return &cli.Exit{Code: cli.Fail, Err: fault.New(fault.Canceled, "", "nothing was done")}
	case len(risks) > 0:
		return cli.UsageError("it needs your consent: "+some(risks), "look at it with --dry-run, then add --yes")
	}
	return nil
}

func question(risks []string) string {
	if len(risks) == 0 {
		return "apply this?"
	}
	return "it will do " + cli.Clean(some(risks)) + "\napply this?"
}

// some is the first of many things, and how many more there are.
func some(things []string) string {
	if len(things) == 1 {
		return things[0]
	}
	return fmt.Sprintf("%s, and %d more", things[0], len(things)-1)
}

func fromStdin(plans []plan) bool {
	for _, p := range plans {
		if p.source.File == stdinName {
			return true
		}
	}
	return false
}

// applyOne applies one script and follows its run. With talk it says so on
// stdout as it goes.
func applyOne(cmd *cobra.Command, c *client.Client, p plan, f applyFlags, talk bool) (*application, error) {
	var a *client.Application
	var err error
	if p.signed != nil {
		a, err = c.Send(cmd.Context(), p.source.File, *p.signed)
	} else {
		a, err = c.Apply(cmd.Context(), p.source, client.ApplyOptions{Name: f.name, Timeout: f.timeout})
	}
	if err != nil {
		return nil, sent(cmd, err)
	}
	if a.Warnings != p.warnings && talk { // of a coordinator that knows more than we do
		printLines(cmd.ErrOrStderr(), a.Warnings)
	}
	v := &application{Plan: p.view(), Revision: a.Revision, Warnings: a.Warnings}
	if a.Revision > 0 && talk {
		fmt.Fprintf(cmd.OutOrStdout(), "%s is in force, revision %d\n", cli.Clean(string(a.Run.Script)), a.Revision)
	}
	if a.Revision == 0 && p.source.File != arguments {
		noteStanding(cmd, c, a.Run.Script)
	}
	if a.Run.ID == "" {
		return v, nil
	}
	run := follower{cmd: cmd, client: c, id: a.Run.ID, patience: a.CutOff, quiet: !talk, halts: true}
	run.retry.reset()
	o, err := run.follow()
	if o != nil {
		r := viewRun(o.run)
		r.Results = mapped(o.results, viewResult)
		v.Run = &r
	}
	if err != nil {
		return v, err
	}
	if talk {
		o.print(cmd)
	}
	return v, o.err()
}

// noteStanding warns who took everything that stands out of a script and believes
// that it has ended: what is done once is no new revision of what stands.
func noteStanding(cmd *cobra.Command, c *client.Client, name fleet.ScriptName) {
	scripts, err := c.Scripts(cmd.Context())
	if err != nil {
		return // it is a remark; what was asked for is done
	}
	for _, s := range scripts {
		if s.Name == name {
			cli.Note(cmd, "nothing in this file stands, so %s revision %d stays in force; end it with: chiba delete script %s", name, s.Revision, name)
		}
	}
}

// sent is err of a call that sent a script: its diagnostics are printed.
func sent(cmd *cobra.Command, err error) error {
	if s, ok := errors.AsType[*client.ScriptError](err); ok {
		printLines(cmd.ErrOrStderr(), s.Text)
	}
	return err
}

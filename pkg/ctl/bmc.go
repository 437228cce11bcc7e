package ctl

import (
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

func bmcCommand() *cobra.Command {
	cmd := cli.Parent(&cobra.Command{
		Use:     "bmc",
		GroupID: cli.GroupChange,
		Short:   "let BMCs in, take them over, give them back, accept a replaced one",
		Example: "  chiba get bmcs --all\n  chiba bmc admit r01-7k2m4q --as r01-u05\n  chiba bmc takeover r01-u04\n  chiba bmc release r01-u04 --password-file FILE",
	})
	cmd.AddCommand(bmcAdmit(), bmcRefuse(), bmcForget(), bmcTakeover(), bmcRelease(), bmcAccept(), bmcRekey())
	return cmd
}

func bmcTakeover() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "takeover TARGET",
		Short: "make a BMC ours: its own certificate, our own account, nothing weak left",
		Long: `Make a BMC ours: it gets a password of its own, the agent an account of its own;
the rack's authority signs its certificate; the agent logs in by certificate; and
what is weaker is switched off. The new way in is proven before the old one is
closed. It goes on after a crash of anybody, and chiba get bmcs shows how far it is.

The agent logs in with what its configuration says. --password-file gives another
password for the first login.`,
		Example:           "  chiba bmc takeover r01-u04",
		Args:              cli.Args(1, 1),
		ValidArgsFunction: completeShow,
	}
	var file string
	cmd.Flags().StringVar(&file, "password-file", "", "`file` with the password that the BMC has now; - is standard input")
	f := bmcFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		what := "(bmc-takeover)"
		if file != "" {
			password, err := readPassword(cmd, file)
			if err != nil {
				return err
			}
			what = "(bmc-takeover (password " + syntax.Quote(password) + "))"
		}
		return f.run(cmd, args[0], what)
	}
	return cmd
}

func bmcRelease() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "release TARGET",
		Short: "give a BMC back: with a password you know, and nothing of ours left",
		Long: `Give a BMC back: the account that it came with is open again, with a password that
you give, or with one that is made and shown once. What was switched off is on
again; our account and the anchor of our certificates are gone. The certificate
that it serves stays until it makes or gets another.`,
		Example:           "  chiba bmc release r01-u04\n  chiba bmc release r01-u04 --password-file FILE",
		Args:              cli.Args(1, 1),
		ValidArgsFunction: completeShow,
	}
	var file string
	cmd.Flags().StringVar(&file, "password-file", "", "`file` with the password that the BMC gets; - is standard input (default: one is made)")
	f := bmcFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		password := rand.Text()[:16] + "a1" // some BMCs want each kind of character
		if file != "" {
			var err error
			if password, err = readPassword(cmd, file); err != nil {
				return err
			}
		}
		if err := f.run(cmd, args[0], "(bmc-release (password "+syntax.Quote(password)+"))"); err != nil {
			return err
		}
		if file == "" && !f.dryRun {
			fmt.Fprintf(cmd.OutOrStdout(), "the password of the account that it came with (root on OpenBMC), shown only now: %s\n", password)
		}
		return nil
	}
	return cmd
}

func bmcAccept() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "accept NODE --pin sha256/…",
		Short: "accept another key for a node's BMC, because it was replaced",
		Long: `Accept another key for a node's BMC: because the BMC was replaced, or because it
made a new one and you know why. Nothing is sent to a BMC whose key has changed
until you do; compare the key with what the BMC itself shows. It is then met anew:
the agent logs in as at the first time, and the serial number of the server must
be the one in the catalogue.`,
		Example:           "  chiba get nodes          # tells the key that answers\n  chiba bmc accept r01-u04 --pin sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
		Args:              cli.Args(1, 1),
		ValidArgsFunction: completeShow,
	}
	var pin string
	cmd.Flags().StringVar(&pin, "pin", "", "the `key`, as sha256/ and base64")
	f := bmcFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !strings.HasPrefix(pin, "sha256/") {
			return cli.UsageError("--pin sha256/… is needed: the key that the BMC shows now", "chiba get nodes tells it")
		}
		return f.run(cmd, args[0], "(bmc-accept "+syntax.Quote(pin)+")")
	}
	return cmd
}

func bmcRekey() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rekey RACK",
		Short: "change the key of a rack's authority, and move its BMCs to it",
		Long: `Change the key of a rack's authority, by which its BMCs have their certificates and
the agent logs in on them: in time before the authority ends (two years), or because
somebody may have the key.

First every BMC that was taken over gets the new key's anchor beside the old one;
only when all have it the new key issues. Then each gets a certificate of it, the old
anchor goes, and at the end the old key is deleted. A BMC that does not answer is
waited for; the command says which, and the change goes on by itself, also after a
crash. Until the new key issues --abort ends it.`,
		Example: "  chiba bmc rekey r17\n  chiba bmc rekey r17 --abort",
		Args:    cli.Args(1, 1),
	}
	var abort bool
	cmd.Flags().BoolVar(&abort, "abort", false, "end a change whose new key does not issue yet")
	f := bmcFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		what := "(rack-rekey-abort)"
		if !abort {
			what = "(rack-rekey " + syntax.Quote(time.Now().UTC().Format(time.DateOnly)+"-"+rand.Text()[:8]) + ")"
		}
		return f.run(cmd, "(rack "+syntax.Quote(args[0])+")", what)
	}
	return cmd
}

type bmcRun struct{ *applyFlags }

func bmcFlags(cmd *cobra.Command) bmcRun {
	f := &applyFlags{name: "bmc"}
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "don't ask")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "print the plan and change nothing")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 10*time.Minute, "how long it may take")
	return bmcRun{f}
}

func (f bmcRun) run(cmd *cobra.Command, where, what string) error {
	s, err := action(cmd, target(where), what)
	if err != nil {
		return err
	}
	return with(cmd, func(c *client.Client) error { return apply(cmd, c, []script{s}, *f.applyFlags) })
}

// maxPassword is more than any BMC takes.
const maxPassword = 256

// readPassword reads a file, without the white space at its end.
func readPassword(cmd *cobra.Command, path string) (string, error) {
	const hint = "name a file that holds the password alone"
	var raw []byte
	var err error
	if path == "-" {
		raw, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxPassword))
	} else {
		raw, err = os.ReadFile(path)
	}
	if err != nil {
		return "", cli.UsageError("the password file can't be read: "+err.Error(), hint)
	}
	password := strings.TrimRight(string(raw), " \t\r\n")
	if password == "" || len(password) > maxPassword {
		return "", cli.UsageError("the password file is empty, or holds more than a password", hint)
	}
	return password, nil
}

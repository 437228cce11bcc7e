package author

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/sign"
)

// Commands are `chiba sign` and `chiba audit`.
func Commands() []*cobra.Command {
	return []*cobra.Command{signCommand(), auditCommand()}
}

// Trust are the commands below `chiba trust` that say who may sign: author keys
// and their policy.
func Trust() []*cobra.Command {
	author := cli.Parent(&cobra.Command{Use: "author", Short: "your author key", Example: "  chiba trust author init"})
	author.AddCommand(authorInit(), authorShow())
	policy := cli.Parent(&cobra.Command{
		Use: "policy", Short: "whose signatures count, and how many there must be", Example: "  chiba trust policy show",
	})
	policy.AddCommand(policyShow(), policySign(), policySet())
	root := cli.Parent(&cobra.Command{Use: "root", Short: "the keys that sign the policy", Example: "  chiba trust root init root"})
	root.AddCommand(rootInit())
	return []*cobra.Command{author, policy, root, tokenCommand()}
}

func loadContext(cmd *cobra.Command) (client.Context, error) {
	return client.Locate(cli.State(cmd), cli.Agent(cmd))
}

func authorInit() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "make an author key and print its public half",
		Long: `Make an author key and print its public half.

The key signs what you apply; it never leaves its file (0600), which is the one
that the context names unless --key names another. Who keeps the policy of authors
puts the public half into it; until then agents refuse what you sign.`,
		Example: "  chiba trust author init\n  chiba trust author init --key bob.key",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, err := keyFile(cmd, file)
			if err != nil {
				return err
			}
			key, err := sign.MakeKey(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", cli.Clean(path), key.Public())
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "key", "", "`file` of the key (default: the context's)")
	return cmd
}

func authorShow() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:     "show",
		Short:   "print the public half of your author key",
		Example: "  chiba trust author show",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, err := keyFile(cmd, file)
			if err != nil {
				return err
			}
			key, err := sign.OpenKey(path)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), key.Public())
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "key", "", "`file` of the key (default: the context's)")
	return cmd
}

func keyFile(cmd *cobra.Command, file string) (string, error) {
	if file != "" {
		return file, nil
	}
	c, err := loadContext(cmd)
	return keyPath(c), err
}

func rootInit() *cobra.Command {
	return &cobra.Command{
		Use:   "init DIR",
		Short: "make a key that signs policies of authors",
		Long: `Make a key that signs policies of authors, in DIR: ` + RootKey + `, which belongs on a
machine without a network, and ` + sign.RootFile + `, its public half, which every agent
and coordinator is given. For several roots, put their authors into one
` + sign.RootFile + ` and raise its threshold.`,
		Example: "  chiba trust root init root",
		Args:    cli.Args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := sign.MakeKey(filepath.Join(args[0], RootKey))
			if err != nil {
				return err
			}
			path := filepath.Join(args[0], sign.RootFile)
			keys := sign.Keys{Threshold: 1, Authors: []sign.Author{{Name: rootName, Key: key.Public()}}}
			if err = keys.Save(path); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: give it to every agent and coordinator\n", cli.Clean(path))
			return nil
		},
	}
}

func policySign() *cobra.Command {
	var keys []string
	var out string
	cmd := &cobra.Command{
		Use:   "sign POLICY.json",
		Short: "sign a policy of authors with root keys",
		Long: `Sign a policy of authors with root keys. It is JSON:

  {"version": 2, "notAfter": "2027-01-01T00:00:00Z", "threshold": 1,
   "authors": [{"name": "ada", "key": "ed25519:…"}, {"name": "bob", "key": "ed25519:…"}],
   "perKind": {"standing": 2}}

threshold is how many of the authors must sign an order; perKind says it for one
kind (standing, run, remove, cancel, catalogue). The version must be higher than that of the
policy in force. After notAfter agents take nothing new; what stands goes on.`,
		Example: "  chiba trust policy sign policy.json --root-key root/root.key --out policy.dsse",
		Args:    cli.Args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(keys) == 0 {
				return cli.UsageError("a root key is needed", "add --root-key FILE, for example the root.key that chiba trust root init has made")
			}
			text, err := os.ReadFile(args[0])
			if err != nil {
				return fault.Wrap(fault.BadInput, "read policy", err)
			}
			p, err := sign.ParsePolicy(text)
			if err != nil {
				return err
			}
			var signers []*sign.Key
			for _, path := range keys {
				key, openErr := sign.OpenKey(path)
				if openErr != nil {
					return openErr
				}
				signers = append(signers, key)
			}
			signed, err := p.Sign(signers...)
			if err != nil {
				return err
			}
			if err = trust.WriteFile(out, 0o644, signed); err != nil {
				return fault.Wrap(fault.Unavailable, "write "+out, err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: version %d, signed by %d\n", cli.Clean(out), p.Version, len(signers))
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&keys, "root-key", nil, "`file` of a root key; repeatable")
	cmd.Flags().StringVar(&out, "out", sign.PolicyFile, "`file` to write")
	return cmd
}

func policySet() *cobra.Command {
	return &cobra.Command{
		Use:     "set FILE.dsse",
		Short:   "put a signed policy of authors into force",
		Example: "  chiba trust policy set policy.dsse",
		Args:    cli.Args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			signed, err := os.ReadFile(args[0])
			if err != nil {
				return fault.Wrap(fault.BadInput, "read policy", err)
			}
			return with(cmd, func(c *client.Client) error {
				version, err := c.PutPolicy(cmd.Context(), signed)
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "the policy of authors is version %d\n", version)
				}
				return err
			})
		},
	}
}

func policyShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show",
		Short:   "show the policy of authors in force, verified if the root is known here",
		Example: "  chiba trust policy show\n  chiba trust policy show -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, err := cli.OutputOf(cmd)
			if err != nil {
				return err
			}
			ctx, err := loadContext(cmd)
			if err != nil {
				return err
			}
			root, err := sign.LoadRoot(filepath.Join(filepath.Dir(ctx.Key), sign.RootFile))
			if err != nil {
				return err
			}
			return with(cmd, func(c *client.Client) error {
				signed, err := c.Policy(cmd.Context())
				if err != nil {
					return err
				}
				p, err := root.Policy(signed)
				if err != nil {
					return err
				}
				if format.Machine() {
					return cli.Encode(cmd.OutOrStdout(), format, p)
				}
				return showPolicy(cmd, p)
			})
		},
	}
}

func showPolicy(cmd *cobra.Command, p *sign.Policy) error {
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "version %d, until %s, signed by the root; %d must sign\n", p.Version, p.NotAfter.Format(time.DateOnly), p.Threshold)
	for kind, n := range p.PerKind {
		fmt.Fprintf(out, "  %s: %d must sign\n", kind, n)
	}
	for _, a := range p.Authors {
		fmt.Fprintf(out, "  %-16s %s\n", cli.Clean(a.Name), a.Key)
	}
	return nil
}

func with(cmd *cobra.Command, f func(*client.Client) error) error {
	context, err := loadContext(cmd)
	if err != nil {
		return err
	}
	c, err := client.Open(context, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c)
}

func signCommand() *cobra.Command {
	var file string
	var yes bool
	cmd := &cobra.Command{
		Use:     "sign FILE.dsse",
		GroupID: cli.GroupChange,
		Short:   "add your signature to a script, or a catalogue, that another author has prepared",
		Long: `Add your signature to a script that another author has prepared. It shows what
you sign, and asks; where nobody can be asked it signs with --yes alone. Nothing is
applied: that does chiba apply FILE.dsse.`,
		Example: "  chiba apply --prepare power.dsse power.scl   # one author\n  chiba sign power.dsse                        # another\n  chiba apply power.dsse                       # either",
		Args:    cli.Args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := keyFile(cmd, file)
			if err != nil {
				return err
			}
			key, err := sign.OpenKey(path)
			if err != nil {
				return err
			}
			return addSignature(cmd, args[0], key, yes)
		},
	}
	cmd.Flags().StringVar(&file, "key", "", "`file` of your author key (default: the context's)")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "don't ask")
	return cmd
}

// addSignature shows a prepared script and signs it.
func addSignature(cmd *cobra.Command, path string, key *sign.Key, yes bool) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fault.Wrap(fault.BadInput, "read signed script", err)
	}
	s, err := client.DecodeSigned(data)
	if err != nil {
		return err
	}
	o, err := sign.Peek(s.Envelope)
	if err != nil {
		return err
	}
	if err = sign.Matches(o, s.Source); err != nil {
		return err
	}
	if o.Kind == order.Catalogue {
		if _, err = s.CheckCatalogue(); err != nil {
			return err
		}
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "%s\n\n", cli.Clean(o.String()))
	for line := range strings.Lines(string(s.Source)) {
		fmt.Fprintln(out, "  "+cli.Clean(strings.TrimRight(line, "\n")))
	}
	switch {
	case yes:
	case !cli.Asks(cmd):
		return cli.UsageError("there is no terminal to ask at, and nothing was signed", "read what is above, then sign it with --yes")
	case !cli.Ask(cmd, "sign this?"):
		return &cli.Exit{Code: cli.Fail, Err: fault.New(fault.Canceled, "", "nothing was signed")}
	}
	if s.Envelope, err = sign.Add(s.Envelope, key); err != nil {
		return err
	}
	if data, err = s.Encode(); err != nil {
		return err
	}
	if err = trust.WriteFile(path, 0o600, data); err != nil {
		return fault.Wrap(fault.Unavailable, "write "+path, err)
	}
	var signatures struct{ Signatures []json.RawMessage }
	_ = json.Unmarshal(s.Envelope, &signatures) // it was just written
	fmt.Fprintf(out, "\n%s has %s\n", cli.Clean(path), cli.Count(len(signatures.Signatures), "signature"))
	return nil
}

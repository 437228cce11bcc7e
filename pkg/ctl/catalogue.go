package ctl

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/catalogue"
	"github.com/chiba-mesh/chiba/pkg/catalogue/source"
	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
)

func catalogueCommand() *cobra.Command {
	cmd := cli.Parent(&cobra.Command{
		Use:     "catalogue",
		GroupID: cli.GroupChange,
		Short:   "the site catalogue: sites, racks, networks, limits, labels, groups",
		Long: `The site catalogue: one YAML file that you keep in git. Racks that are in none work
without it.

  sites:
    - name: osl1
      address: Ulvenveien 82, Oslo
      labels: {region: north}
  racks:
    - name: r01
      site: osl1
      position: hall 2, row C, place 7
      labels: {row: c}
      networks:
        - cidr: 10.20.1.0/24
  groups:
    - name: web
      members: ["r01-u[01-04]", '(where (= node.label.role "web"))']

docs/catalogue.md tells of every key. Scripts select by what it says: (site "osl1"),
(where (= node.label.row "c")), (group "web").`,
		Example: "  chiba catalogue check site.yaml\n  chiba catalogue apply site.yaml\n  chiba catalogue show\n  chiba catalogue export > site.yaml",
		Aliases: []string{"catalog"},
	})
	cmd.AddCommand(catalogueCheck(), catalogueApply(), catalogueShow(), catalogueExport())
	return cmd
}

func catalogueCheck() *cobra.Command {
	return &cobra.Command{
		Use:     "check FILE…",
		Short:   "tell all that is wrong with a catalogue; no fleet is needed",
		Example: "  chiba catalogue check site.yaml\n  chiba catalogue check -o json site.yaml",
		Args:    cli.Args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var wrong error
			for _, file := range args {
				_, c, err := readCatalogue(cmd, file)
				if err != nil {
					wrong = err
					continue
				}
				if format, _ := cli.OutputOf(cmd); !format.Machine() {
					fmt.Fprintf(cmd.OutOrStdout(), "%s: nothing is wrong: %s\n", cli.Clean(file), contents(c))
				}
			}
			return wrong
		},
	}
}

// readCatalogue reads a catalogue. What is wrong with it goes to stderr, or for
// programs to stdout.
func readCatalogue(cmd *cobra.Command, file string) ([]byte, *catalogue.Catalogue, error) {
	src, err := readSource(cmd, file)
	if err != nil {
		return nil, nil, err
	}
	c, found := source.Read(src.File, src.Text)
	format, err := cli.OutputOf(cmd)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case format == cli.JSONFormat && (cmd.Name() == "check" || len(found) > 0):
		fmt.Fprintln(cmd.OutOrStdout(), string(found.JSON()))
	case len(found) > 0:
		printLines(cmd.ErrOrStderr(), found.String())
	}
	if len(found) > 0 {
		return nil, nil, &cli.Exit{Code: cli.Fail, Err: fault.New(fault.BadInput, "", fmt.Sprintf("%s has %s", src.File, cli.Count(len(found), "error")))}
	}
	return src.Text, c, nil
}

func contents(c *catalogue.Catalogue) string {
	return cli.Count(len(c.Sites), "site") + ", " + cli.Count(len(c.Racks), "rack") + ", " + cli.Count(len(c.Groups), "group")
}

type catalogueFlags struct {
	yes, dryRun bool
	prepare     string
}

func catalogueApply() *cobra.Command {
	var f catalogueFlags
	cmd := &cobra.Command{
		Use:   "apply FILE",
		Short: "put a catalogue into force; shows what changes first",
		Long: `Put a catalogue into force. It shows what changes, and asks if that touches what
is running. Agents get their part of it with what else they are told, and those that
are cut off when they are back. A catalogue that is wrong changes nothing.

It is signed with your author key, like a script. Where the policy of authors asks
for two: apply --prepare, chiba sign, and apply of what both have signed.`,
		Example: "  chiba catalogue apply site.yaml\n  chiba catalogue apply --dry-run site.yaml\n  chiba catalogue apply --prepare site.dsse site.yaml\n  chiba catalogue apply site.dsse",
		Args:    cli.Args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.prepare != "" && !strings.HasSuffix(f.prepare, signedSuffix) {
				return cli.UsageError("a signed catalogue's file ends in "+signedSuffix, "for example: --prepare site"+signedSuffix)
			}
			next, err := readNext(cmd, args[0])
			if err != nil {
				return err
			}
			return with(cmd, func(c *client.Client) error { return applyCatalogue(cmd, c, next, f) })
		},
	}
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "don't ask")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "show what would change, and change nothing")
	cmd.Flags().StringVar(&f.prepare, "prepare", "", "sign it, write it to this `file`, and apply nothing")
	addKeyFlag(cmd)
	return cmd
}

// nextCatalogue is one that is to be applied.
type nextCatalogue struct {
	file   string
	text   []byte
	read   *catalogue.Catalogue
	signed *client.Signed // nil: nobody has signed it yet
}

func readNext(cmd *cobra.Command, file string) (*nextCatalogue, error) {
	if !strings.HasSuffix(file, signedSuffix) {
		text, c, err := readCatalogue(cmd, file)
		return &nextCatalogue{file: file, text: text, read: c}, err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, unreadable(file, err)
	}
	signed, err := client.DecodeSigned(data)
	if err != nil {
		return nil, err
	}
	c, err := signed.CheckCatalogue()
	return &nextCatalogue{file: file, text: signed.Source, read: c, signed: &signed}, err
}

func applyCatalogue(cmd *cobra.Command, c *client.Client, next *nextCatalogue, f catalogueFlags) error {
	last, err := c.Catalogue(cmd.Context())
	if err != nil {
		return err
	}
	if last.Version > 0 && string(last.Source) == string(next.text) {
		fmt.Fprintf(cmd.OutOrStdout(), "nothing changes: version %d says just that\n", last.Version)
		return nil
	}
	view, err := compareCatalogues(cmd.Context(), c, last, next.read)
	if err != nil {
		return err
	}
	view.print(cmd)
	if f.dryRun {
		return nil
	}
	if next.signed == nil {
		if next.signed, err = c.SignCatalogue(next.text, next.read, last); err != nil {
			return err
		}
	}
	if f.prepare != "" {
		return writePrepared(cmd, f.prepare, next.signed)
	}
	if err := view.consent(cmd, f.yes); err != nil {
		return err
	}
	kept, err := c.PutCatalogue(cmd.Context(), next.file, *next.signed, last.Version)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "the site catalogue is version %d: %s\n", kept.Version, contents(next.read))
	if len(view.away) > 0 {
		cli.Note(cmd, "cut off, and told when they are back: %s", strings.Join(view.away, ", "))
	}
	return nil
}

func writePrepared(cmd *cobra.Command, file string, s *client.Signed) error {
	data, err := s.Encode()
	if err != nil {
		return err
	}
	if err = os.WriteFile(file, data, 0o600); err != nil {
		return fault.Wrap(fault.Unavailable, "write "+file, err)
	}
	o, err := s.Order()
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s: signed to %s\n", cli.Clean(file), cli.Clean(o.String()))
	return nil
}

func catalogueShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show",
		Short:   "show the catalogue in force: its racks, who applied it and when",
		Example: "  chiba catalogue show\n  chiba catalogue show -o json",
		Args:    cli.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(cmd, func(c *client.Client) error {
				last, book, err := inForceCatalogue(cmd, c)
				if err != nil {
					return err
				}
				if format, _ := cli.OutputOf(cmd); !format.Machine() && format != cli.NameFormat {
					fmt.Fprintf(cmd.OutOrStdout(), "%s, version %d, applied %s ago by %s: %s\nsha256:%s\n\n",
						cli.Clean(filepath.Base(last.File)), last.Version, ago(last.At), cli.Clean(last.By), contents(book), cli.Clean(last.Digest))
				}
				return listRacks(cmd, c, true)
			})
		},
	}
}

func catalogueExport() *cobra.Command {
	return &cobra.Command{
		Use:     "export",
		Short:   "print the catalogue in force, byte for byte as it was applied",
		Example: "  chiba catalogue export > site.yaml",
		Args:    cli.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return with(cmd, func(c *client.Client) error {
				last, _, err := inForceCatalogue(cmd, c)
				if err == nil {
					_, err = cmd.OutOrStdout().Write(last.Source)
				}
				return err
			})
		},
	}
}

// inForceCatalogue is the one in force; that there is none is an error.
func inForceCatalogue(cmd *cobra.Command, c *client.Client) (*client.Catalogue, *catalogue.Catalogue, error) {
	last, err := c.Catalogue(cmd.Context())
	if err != nil {
		return nil, nil, err
	}
	if last.Version == 0 {
		return nil, nil, fault.New(fault.NotFound, "", "there is no site catalogue").
			WithHint("racks work without one; write one and put it into force: chiba catalogue apply site.yaml")
	}
	book, found := source.Read(last.File, last.Source)
	if len(found) > 0 {
		return nil, nil, fault.New(fault.Unsupported, "read the site catalogue", found[0].Text).
			WithHint("it was written for another build of chiba: use that of the coordinators")
	}
	return last, book, nil
}

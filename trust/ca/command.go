package ca

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust"
)

// Command is `chiba ca`: what is done by hand, at the machine where a key lies.
func Command() *cobra.Command {
	cmd := cli.Parent(&cobra.Command{
		Use:     "ca",
		GroupID: cli.GroupTools,
		Short:   "make the root, a site's CA, and first certificates",
		Example: "  chiba ca root --root /media/stick/root\n  chiba ca site osl1 --root /media/stick/root --dir /etc/chiba/site-ca\n" +
			"  chiba ca issue coordinator/c1 --site-ca /etc/chiba/site-ca --dir /etc/chiba --host 10.0.0.5",
	})
	cmd.AddCommand(rootCommand(), siteCommand(), issueCommand())
	return cmd
}

func rootCommand() *cobra.Command {
	var dir string
	var rotate, retire, now bool
	cmd := &cobra.Command{
		Use:   "root --root DIR",
		Short: "make the root and the next one, and show their pins",
		Long: `Make the root of a mesh and the next one, if they are not there, and show their
pins. The directory belongs offline: it is needed to sign a site's CA, twice a year.

To change the root: --rotate, then chiba ca site for every site; when every agent
has renewed its certificate, which takes a day, --retire. It is refused earlier,
because who has not renewed by then is shut out; --now does it all the same.`,
		Example: "  chiba ca root --root /media/stick/root\n  chiba ca root --root /media/stick/root --rotate\n  chiba ca root --root /media/stick/root --retire",
		Args:    cli.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return cli.UsageError("the root needs a directory", "add --root DIR")
			}
			r, err := OpenRoot(dir)
			if err == nil && rotate {
				err = r.Rotate()
			}
			if err == nil && retire {
				err = retireRoot(r, now)
			}
			if err != nil {
				return err
			}
			for i, c := range trust.SelfSigned(r.Bundle()) {
				fmt.Fprintf(cmd.OutOrStdout(), "%-8s %s  until %s\n", []string{"current", "next", "retiring"}[i], trust.Pin(c), stamp(c.NotAfter))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "root", "", "`directory` of the root")
	cmd.Flags().BoolVar(&rotate, "rotate", false, "make the next root the current one")
	cmd.Flags().BoolVar(&retire, "retire", false, "delete the root before, when nothing hangs on it")
	cmd.Flags().BoolVar(&now, "now", false, "retire it although not everybody can have renewed")
	return cmd
}

// retireRoot retires the root before, if everybody has had the time to renew.
func retireRoot(r *Root, now bool) error {
	at, open := r.Rotated()
	if left := Renewal - time.Since(at); open && left > 0 && !now {
		return fault.New(fault.Conflict, "retire the old root", "the root was changed at "+stamp(at)+"; who has not renewed yet would be shut out").
			WithHint("come back after " + stamp(at.Add(Renewal)) + ", or do it all the same with --now")
	}
	return r.Retire()
}

func siteCommand() *cobra.Command {
	var root, dir string
	var dns, nets []string
	cmd := &cobra.Command{
		Use:   "site NAME --root DIR --dir DIR",
		Short: "make a site's CA, or renew it",
		Long: `Make the CA of a site, or renew it if a third of its life is over. Its directory
belongs to the site's coordinators: chiba coordinator --site-ca DIR.

With --bmc-net the certificates of BMCs in those networks name their address too, so
that curl, openssl and browsers verify them there by the root. Every rack of the site
may then name any address in them: give the networks of BMCs, and no others.`,
		Example: "  chiba ca site osl1 --root /media/stick/root --dir /etc/chiba/site-ca\n" +
			"  chiba ca site osl1 --root /media/stick/root --dir /etc/chiba/site-ca --bmc-net 10.17.0.0/16 --dns example.org",
		Args: cli.Args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if root == "" || dir == "" {
				return cli.UsageError("--root and --dir are needed", "chiba ca site "+args[0]+" --root DIR --dir DIR")
			}
			s, err := ensureSite(root, dir, args[0], dns, nets)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "site %s: %s until %s\n", args[0], s.Domain(), stamp(s.NotAfter()))
			for _, n := range s.nets {
				fmt.Fprintf(cmd.OutOrStdout(), "BMCs are named by their address in %s\n", n)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&root, "root", "", "`directory` of the root")
	cmd.Flags().StringVar(&dir, "dir", "", "`directory` of the site's CA")
	cmd.Flags().StringSliceVar(&nets, "bmc-net", nil, "`network` of BMCs, whose certificates name their address; given, all of them (default: as before)")
	cmd.Flags().StringSliceVar(&dns, "dns", nil, "DNS `domain` that coordinators of the site are called by; given, all of them (default: as before)")
	return cmd
}

// ensureSite makes or renews a site's CA, with the networks of its BMCs if there are
// some to change.
func ensureSite(root, dir, name string, dns, nets []string) (*Site, error) {
	var prefixes []netip.Prefix
	for _, text := range nets {
		n, err := ParseNet(text)
		if err != nil {
			return nil, cli.UsageError("--bmc-net: "+err.Error(), fault.HintOf(err))
		}
		prefixes = append(prefixes, n)
	}
	r, err := OpenRoot(root)
	if err != nil {
		return nil, err
	}
	if err = r.EnsureSite(dir, name, dns...); err != nil {
		return nil, err
	}
	if len(prefixes) > 0 {
		if err = KeepNets(dir, prefixes); err != nil {
			return nil, err
		}
	}
	return OpenSite(dir)
}

func issueCommand() *cobra.Command {
	var site, dir, rack string
	var hosts []string
	cmd := &cobra.Command{
		Use:   "issue ROLE/NAME --site-ca DIR --dir DIR",
		Short: "make credentials for a coordinator, an agent or an operator",
		Long: `Make cert.pem, key.pem and ca.pem in a directory, unless there are good ones. From
then on coordinators and agents renew theirs themselves. A coordinator that people
or agents call by a name of yours needs it with --host, below a domain that the
site's CA may name: chiba ca site --dns.`,
		Example: "  chiba ca issue coordinator/c1 --site-ca /etc/chiba/site-ca --dir /etc/chiba --host 10.0.0.5\n" +
			"  chiba ca issue agent/agent-r17 --rack r17 --site-ca /etc/chiba/site-ca --dir agent-r17\n" +
			"  chiba ca issue operator/ada --site-ca /etc/chiba/site-ca --dir ada",
		Args: cli.Args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			role, name, ok := strings.Cut(args[0], "/")
			if !ok || site == "" || dir == "" {
				return cli.UsageError("a role with a name, --site-ca and --dir are needed", "chiba ca issue operator/NAME --site-ca DIR --dir DIR")
			}
			s, err := OpenSite(site)
			if err != nil {
				return err
			}
			id := s.In(trust.Identity{Role: trust.Role(role), Domain: trust.Domain{Rack: rack}, Name: name})
			if err = s.Ensure(dir, id, hosts...); err != nil {
				return err
			}
			creds, err := trust.Load(dir)
			if err != nil {
				return fault.Wrap(fault.Internal, "read what was issued", err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s until %s\n", id.URI(), stamp(creds.Certificate.Leaf.NotAfter))
			return nil
		},
	}
	cmd.Flags().StringVar(&site, "site-ca", "", "`directory` of the site's CA")
	cmd.Flags().StringVar(&dir, "dir", "", "`directory` for the credentials")
	cmd.Flags().StringVar(&rack, "rack", "", "`name` of an agent's rack")
	cmd.Flags().StringSliceVar(&hosts, "host", nil, "host name or `address` of a coordinator; repeatable (default: as before)")
	return cmd
}

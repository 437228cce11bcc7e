package author

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/audit"
)

// SeenFile is where the audit log that was last seen is remembered, beside a context.
const SeenFile = "audit.seen"

func auditCommand() *cobra.Command {
	cmd := cli.Parent(&cobra.Command{
		Use:     "audit",
		GroupID: cli.GroupSee,
		Short:   "who did what, in a log that nobody can change unseen",
		Example: "  chiba audit log\n  chiba audit verify",
	})
	cmd.AddCommand(auditLog(), auditVerify())
	return cmd
}

func auditLog() *cobra.Command {
	var since time.Duration
	cmd := &cobra.Command{
		Use:     "log",
		Short:   "show who did what",
		Example: "  chiba audit log --since 24h\n  chiba audit log -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, err := cli.OutputOf(cmd)
			if err != nil {
				return err
			}
			var log *client.AuditLog
			err = with(cmd, func(c *client.Client) (err error) {
				log, err = c.Audit(cmd.Context())
				return err
			})
			if err != nil {
				return err
			}
			records, err := recordsSince(log.Records, since)
			if err != nil {
				return err
			}
			if format.Machine() {
				return cli.Encode(cmd.OutOrStdout(), format, records)
			}
			return showRecords(cmd, records)
		},
	}
	cmd.Flags().DurationVar(&since, "since", 0, "only the last so much `time`, as 24h (default all)")
	return cmd
}

// recordsSince are the records of the last d; 0 means all.
func recordsSince(leaves [][]byte, d time.Duration) ([]audit.Record, error) {
	records := []audit.Record{}
	for _, leaf := range leaves {
		r, err := audit.Decode(leaf)
		if err != nil {
			return nil, err
		}
		if d <= 0 || time.Since(r.Time()) <= d {
			records = append(records, r)
		}
	}
	return records, nil
}

func showRecords(cmd *cobra.Command, records []audit.Record) error {
	table := cli.Table{Columns: cli.Columns("TIME", "BY", "WHAT", "SUBJECT", "DETAIL")}
	for _, r := range records {
		table.Add(r.Time().Local().Format(time.DateTime), r.By, r.What, r.Subject, r.Detail)
	}
	table.Print(cmd)
	return nil
}

func auditVerify() *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "verify that nothing in the audit log was changed",
		Long: `Verify that nothing in the audit log was changed.

It reads every record, computes the tree over them anew, verifies that a coordinator
has signed just that tree, and that it goes on from the one that was seen here the
last time, which is remembered beside the context. Every agent does the same with
what it has seen. Exit code 1 if something does not hold, with the reason.`,
		Example: "  chiba audit verify",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, err := loadContext(cmd)
			if err != nil {
				return err
			}
			if ctx.OnRack() {
				return fault.New(fault.Unsupported, "verify the audit log", "an agent's records are no signed log yet: they become one at the coordinators").
					WithHint("see them with: chiba --agent audit log")
			}
			seen, err := readSeen(ctx)
			if err != nil {
				return err
			}
			var v *verified
			err = with(cmd, func(c *client.Client) (err error) {
				v, err = verify(cmd.Context(), c, ctx, seen)
				return err
			})
			if err != nil {
				return err
			}
			v.print(cmd, seen)
			return fault.Wrap(fault.Unavailable, "remember the audit log", trust.WriteFile(filepath.Join(ctx.Dir(), SeenFile), 0o600, v.tree.Kept()))
		},
	}
}

func readSeen(c client.Context) (audit.Tree, error) {
	text, err := os.ReadFile(filepath.Join(c.Dir(), SeenFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return audit.Tree{}, fault.Wrap(fault.Unavailable, "read what was seen of the audit log", err)
	}
	return audit.ParseKept(text)
}

// verified is an audit log that holds.
type verified struct {
	tree        audit.Tree
	by          trust.Identity
	first, last audit.Record
}

func verify(ctx context.Context, c *client.Client, conf client.Context, seen audit.Tree) (*verified, error) {
	log, err := c.Audit(ctx)
	if err != nil {
		return nil, err
	}
	own, err := trust.LoadFiles(conf.Cert, conf.Key, conf.CA)
	if err != nil {
		return nil, err
	}
	var v verified
	if v.tree, v.by, err = audit.Verify(log.Checkpoint, log.Proof, own, time.Now()); err != nil {
		return nil, err
	}
	if err = audit.Check(log.Records, v.tree, seen); err != nil {
		return nil, err
	}
	records, err := recordsSince(log.Records[:v.tree.Size], 0)
	if err == nil && len(records) > 0 {
		v.first, v.last = records[0], records[len(records)-1]
	}
	return &v, err
}

func (v *verified) print(cmd *cobra.Command, seen audit.Tree) {
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "%d records, from %s to %s\n", v.tree.Size, v.first.Time().Local().Format(time.DateTime), v.last.Time().Local().Format(time.DateTime))
	fmt.Fprintf(out, "signed by %s, whose certificate our CA has issued\n", cli.Clean(v.by.String()))
	if seen.Size > 0 {
		fmt.Fprintf(out, "it goes on from the %d records that were seen here before\n", seen.Size)
	} else {
		fmt.Fprintln(out, "it was seen here for the first time, and is remembered")
	}
}

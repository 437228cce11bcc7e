package agent

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/seal"
	"github.com/chiba-mesh/chiba/trust/vouch"
)

// recoveryKeyCommand is `chiba agent recovery-key`.
func recoveryKeyCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "recovery-key --out FILE",
		Short: "make the key by which a lost agent gets into its BMCs again",
		Long: `Make the key by which an agent that has lost its state directory gets into its BMCs
again, and show its public half, which goes into ` + ConfigFile + ` as recovery. One key may
do for all racks. The file belongs offline: who has it and a copy of an agent's
` + EscrowFile + ` has the rack's BMCs.`,
		Example: "  chiba agent recovery-key --out /media/stick/recovery.key",
		Args:    cli.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return cli.UsageError("--out is needed", cmd.CommandPath()+" --out FILE")
			}
			key, err := seal.OpenKey(out)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "recovery: %s\n", key.Text())
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "`file` for the key; one that is there is shown")
	return cmd
}

// recoverCommand is `chiba agent recover`.
func recoverCommand() *cobra.Command {
	var state, keyFile string
	cmd := &cobra.Command{
		Use:   "recover ESCROW --key FILE --state DIR",
		Short: "give an agent that has lost everything the way into its BMCs again",
		Long: `Give an agent that has lost its state directory the way into its BMCs again: the
rack's authority, the accounts' passwords and what was recorded of each BMC.

ESCROW is a copy of the ` + EscrowFile + ` of its lost directory. The new directory must
have joined first, as the same agent of the same rack, and must not have run yet.
What has happened on the BMCs since the copy was made is looked up; only the
password of a BMC that was taken over since is not in it.`,
		Example: "  chiba trust token create --rack r17 --replace --out join.bundle\n  chiba agent join join.bundle --state /var/lib/chiba/agent\n" +
			"  chiba agent recover escrow.json --key /media/stick/recovery.key --state /var/lib/chiba/agent",
		Args: cli.Args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if state == "" || keyFile == "" {
				return cli.UsageError("--key and --state are needed", cmd.CommandPath()+" "+args[0]+" --key FILE --state DIR")
			}
			if _, err := os.Stat(keyFile); err != nil {
				return fault.New(fault.BadInput, "read the recovery key", err.Error())
			}
			key, err := seal.OpenKey(keyFile)
			if err != nil {
				return err
			}
			bmcs, at, err := recoverState(state, args[0], key)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "recovered %d BMCs as they were at %s\nnext: chiba agent --state %s\n", bmcs, at.Format(time.RFC3339), cli.Clean(state))
			return nil
		},
	}
	cmd.Flags().StringVar(&state, "state", "", "the agent's new state `directory`, which has joined")
	cmd.Flags().StringVar(&keyFile, "key", "", "`file` of the recovery key")
	return cmd
}

// recoverState puts what is in an escrow into the state directory dir, and says of how
// many BMCs and of when it is. It verifies before it opens, and opens before it writes.
func recoverState(dir, file string, key *seal.Key) (bmcs int, at time.Time, err error) {
	const op = "recover the agent"
	for _, name := range []string{spoolFile, rackDir} {
		if _, err = os.Stat(filepath.Join(dir, name)); err == nil {
			return 0, at, fault.New(fault.Conflict, op, "it has run already: there is "+filepath.Join(dir, name)).
				WithHint("if no BMC was taken over since, remove " + spoolFile + ", " + sealFile + " and " + rackDir + " from " + dir)
		}
	}
	creds, err := trust.Load(dir)
	if err != nil {
		return 0, at, fault.New(fault.BadInput, op, err.Error()).WithHint("join first: chiba agent join --state " + dir)
	}
	id, err := creds.Identity()
	if err != nil {
		return 0, at, err
	}
	sealed, at, err := readEscrow(file, creds, id)
	if err != nil {
		return 0, at, err
	}
	plain, err := key.Open(sealed, id.Rack, escrowUse)
	if err != nil {
		return 0, at, fault.New(fault.Denied, op, "this key does not open it").WithHint("it takes the key whose public half was in the agent's " + ConfigFile)
	}
	var b belongings
	if err = json.Unmarshal([]byte(plain.Reveal()), &b); err != nil {
		return 0, at, fault.New(fault.Garbage, op, "what is sealed is not an escrow of this build of chiba")
	}
	bmcs, err = b.write(dir)
	return bmcs, at, err
}

// readEscrow is the sealed text of an escrow that the agent id has vouched for, and when.
func readEscrow(file string, creds trust.Credentials, id trust.Identity) (sealed string, at time.Time, err error) {
	const op = "read the escrow"
	info, err := os.Stat(file)
	if err == nil && info.Size() > maxEscrow {
		err = errors.New("it is too large to be one")
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(file)
	}
	if err != nil {
		return "", at, fault.Wrap(fault.BadInput, op, err)
	}
	var e escrowed
	if err = json.Unmarshal(text, &e); err != nil {
		return "", at, fault.New(fault.Garbage, op, file+" is no escrow")
	}
	raw, _, err := vouch.Peek(e.Proof)
	var claim escrowClaim
	if err == nil {
		err = json.Unmarshal(raw, &claim)
	}
	if err != nil {
		return "", at, fault.New(fault.Garbage, op, file+" is no escrow")
	}
	_, by, err := vouch.Check(escrowContext, e.Proof, creds.Roots, claim.At)
	if err != nil {
		return "", at, fault.Wrap(fault.Untrusted, op, err)
	}
	digest := sha256.Sum256([]byte(e.Sealed))
	switch {
	case by != id:
		return "", at, fault.New(fault.Untrusted, op, fmt.Sprintf("it is of %s, and this is %s", by, id)).
			WithHint("join as that agent of that rack: its account on the BMCs goes by its name")
	case !bytes.Equal(digest[:], claim.Digest):
		return "", at, fault.New(fault.Untrusted, op, "it was changed")
	}
	return e.Sealed, claim.At, nil
}

// write puts everything on disk, the spool last.
func (b belongings) write(dir string) (bmcs int, err error) {
	const op = "write what was in the escrow"
	for name := range b.CA {
		if !filepath.IsLocal(name) {
			return 0, fault.New(fault.Garbage, op, "it holds a file outside of "+rackDir)
		}
	}
	for name, text := range b.CA {
		path := filepath.Join(dir, rackDir, filepath.FromSlash(name))
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			err = trust.WriteFile(path, 0o600, text)
		}
		if err != nil {
			return 0, fault.Wrap(fault.Unavailable, op, err)
		}
	}
	if err = trust.WriteFile(filepath.Join(dir, sealFile), 0o600, b.SealKey); err != nil {
		return 0, fault.Wrap(fault.Unavailable, op, err)
	}
	disk, err := spool.Open(filepath.Join(dir, spoolFile), spool.Options{})
	if err != nil {
		return 0, err
	}
	err = disk.Update(func(tx *spool.Tx) error {
		for _, k := range b.Spool {
			if escrowedTables()[k.Table] == nil {
				return fault.New(fault.Garbage, op, fmt.Sprintf("it holds a table %q", k.Table))
			}
			tx.Put(k.Table, string(k.Key), k.Value)
			if k.Table == spool.Takeovers {
				bmcs++
			}
		}
		return nil
	})
	return bmcs, errors.Join(err, disk.Close())
}

package agent

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/seal"
	"github.com/chiba-mesh/chiba/trust/vouch"
)

const (
	// EscrowFile is what opens the BMCs, sealed to a key that lies offline.
	EscrowFile = "escrow.json"

	escrowUse     = "what opens the BMCs of a rack"
	escrowContext = "chiba-escrow-v1"
	maxEscrow     = 16 << 20
)

// escrowed is the file: sealed, so that nobody but the holder of the recovery key reads
// it; vouched for, so that nobody else can put keys of his own into an agent that comes
// back. Anybody can seal.
type escrowed struct {
	Proof  []byte `json:"proof"` // vouch, of an escrowClaim
	Sealed string `json:"sealed"`
}

// escrowClaim is what the agent says of the sealed text with its certificate.
type escrowClaim struct {
	At     time.Time `json:"at"` // while the certificate was good
	Digest []byte    `json:"digest"`
}

// belongings are what a state directory has that nobody can make again.
type belongings struct {
	SealKey []byte            `json:"seal_key"`
	CA      map[string][]byte `json:"ca"` // the files below rack-ca
	Spool   []escrowRow       `json:"spool"`
}

type escrowRow struct {
	Table spool.Table `json:"table"`
	Key   []byte      `json:"key"`
	Value []byte      `json:"value"`
}

// escrowedTables are the parts of the spool that are a BMC's: records, logins, and what
// a person has accepted.
func escrowedTables() map[spool.Table][]string {
	return map[spool.Table][]string{
		spool.Takeovers: {""}, spool.Secrets: {""},
		spool.Notes: {spool.Key("accepted"), spool.Key("accepted-at"), spool.Key("approved"), spool.Key(keyRekey)},
	}
}

// keepEscrow writes the escrow anew when what is in it has changed.
func (a *Agent) keepEscrow(ctx context.Context) error {
	if a.cfg.Recovery == "" {
		return nil
	}
	tick := time.NewTicker(auditEvery) // certificates and passwords change without a step, too
	defer tick.Stop()
	var last [sha256.Size]byte
	for {
		now, err := a.belongings()
		if err == nil && sha256.Sum256(now) != last {
			if err = a.writeEscrow(now); err == nil {
				last = sha256.Sum256(now)
			}
		}
		if err != nil {
			a.log.Error("the escrow is out of date", obs.Err, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.escrowing:
		case <-tick.C:
		}
	}
}

func (a *Agent) belongings() ([]byte, error) {
	const op = "gather the escrow"
	a.rekeying.Lock()
	defer a.rekeying.Unlock()
	b := belongings{CA: map[string][]byte{}}
	var err error
	if b.SealKey, err = os.ReadFile(filepath.Join(a.cfg.State, sealFile)); err != nil {
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	dir := os.DirFS(filepath.Join(a.cfg.State, rackDir))
	err = fs.WalkDir(dir, ".", func(path string, entry fs.DirEntry, walkErr error) error {
		if walkErr != nil || entry.IsDir() {
			return walkErr
		}
		b.CA[path], walkErr = fs.ReadFile(dir, path)
		return walkErr
	})
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	err = a.spool.View(func(tx *spool.Tx) error {
		for _, table := range []spool.Table{spool.Takeovers, spool.Secrets, spool.Notes} {
			for _, prefix := range escrowedTables()[table] {
				for key, value := range tx.All(table, prefix) {
					b.Spool = append(b.Spool, escrowRow{table, []byte(key), append([]byte(nil), value...)})
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(b)
	return text, fault.Wrap(fault.Internal, op, err)
}

func (a *Agent) writeEscrow(text []byte) error {
	const op = "write the escrow"
	to, err := seal.ParseText(a.cfg.Recovery, string(a.cfg.Rack))
	if err != nil {
		return err
	}
	sealed, err := seal.Seal([]seal.Recipient{to}, escrowUse, fleet.NewSecret(string(text)))
	if err != nil {
		return err
	}
	creds, err := a.cfg.credentials()
	if err != nil {
		return err
	}
	digest := sha256.Sum256([]byte(sealed))
	at := a.now()
	if end := creds.Certificate.Leaf.NotAfter; at.After(end) {
		at = end // cut off for long: who verifies it looks at the time that is claimed
	}
	claim, err := json.Marshal(escrowClaim{At: at, Digest: digest[:]})
	if err != nil {
		return fault.Wrap(fault.Internal, op, err)
	}
	proof, err := vouch.For(escrowContext, claim, creds.Certificate)
	if err != nil {
		return err
	}
	file, err := json.Marshal(escrowed{proof, sealed})
	if err != nil {
		return fault.Wrap(fault.Internal, op, err)
	}
	return fault.Wrap(fault.Unavailable, op, trust.WriteFile(filepath.Join(a.cfg.State, EscrowFile), 0o600, file))
}

package agent

import (
	"context"
	"crypto/ecdsa"
	"path/filepath"

	"github.com/chiba-mesh/chiba/agent/enroll"
	"github.com/chiba-mesh/chiba/pkg/fault"
)

func (t *standingTrust) joinFile() string { return filepath.Join(t.cfg.State, enroll.StateFile) }

// answered keeps where we stand with our renewals, before a certificate is used.
func (t *standingTrust) answered(counter uint64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.join.Answered(t.joinFile(), counter)
}

// renewEnded has our certificate, which has ended, renewed by the coordinator at addr.
func (t *standingTrust) renewEnded(ctx context.Context, addr string) error {
	const op = "renew our certificate, which has ended"
	creds := t.endpoint.Credentials()
	key, ok := creds.Certificate.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return fault.New(fault.Unsupported, op, "its key is of another kind than agents have")
	}
	id, err := creds.Identity()
	if err != nil {
		return err
	}
	t.mu.Lock()
	asked, err := t.join.Ask(t.joinFile())
	t.mu.Unlock()
	if err != nil {
		return err
	}
	door := enroll.Door{Coordinators: []string{addr}, Pins: creds.Pins(), Site: id.Site, Now: t.clock.Now}
	chain, bundle, counter, err := door.Renew(ctx, key, asked)
	if err != nil {
		return fault.Wrap(fault.KindOf(err), op, err)
	}
	return t.renew(chain, bundle, counter)
}

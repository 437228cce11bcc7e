package openbmc

import (
	"context"
	"errors"

	"github.com/chiba-mesh/chiba/agent/takeover"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// open lets the BMC answer those again who have no certificate.
func (d *Driver) open(ctx context.Context) error {
	return d.patchAccountService(ctx, clientCertificate("RespondToUnauthenticatedClients", true))
}

// restore switches on what was on before.
func (d *Driver) restore(ctx context.Context) error {
	rec := d.Ledger.Record()
	if rec.Before == nil {
		return nil
	}
	now := rec.Seen.Weak()
	if now.Basic != rec.Before.Basic || now.Cookie != rec.Before.Cookie {
		body := authMethods(map[string]any{"Cookie": rec.Before.Cookie})
		body["HTTPBasicAuth"] = map[bool]string{true: "Enabled", false: "Disabled"}[rec.Before.Basic]
		if err := d.patchAccountService(ctx, body); err != nil {
			return err
		}
	}
	return orCannot(takeover.Restore, d.setServices(ctx, now, *rec.Before))
}

// giveBack opens the account that we came with, with the password that its owner
// knows, and proves it by a login. From then on the lane uses that.
func (d *Driver) giveBack(ctx context.Context) error {
	rec := d.Ledger.Record()
	password, err := d.Ledger.Open(rec.Known)
	if err != nil {
		return err
	}
	uri, err := d.accountURI(ctx, rec.Bootstrap)
	if err != nil {
		return err
	}
	known := redfish.Credentials{User: rec.Bootstrap, Password: password}
	err = d.BMC.Patch(ctx, uri, confidential(password, map[string]any{"Enabled": true}))
	if refusedAs(err, "PropertyValueFormatError") {
		return impossible{fault.New(fault.BadInput, "give the BMC back", "it does not take the password: it is too short, too long or too easily guessed").
			WithHint("release it again with another one")}
	}
	if err != nil && !redfish.Uncertain(err) {
		return err
	}
	if err = d.BMC.Try(ctx, known); err != nil {
		return err
	}
	err = errors.Join(d.Vault.Propose(string(d.Node), known), d.Vault.Prove(string(d.Node), known),
		d.Ledger.Keep(func(r takeover.Record) takeover.Record {
			r.Returned = true
			return r
		}))
	if err != nil {
		return err
	}
	d.BMC.Reconnect()
	return d.BMC.LogIn(ctx, known)
}

// uproot removes every anchor of ours.
func (d *Driver) uproot(ctx context.Context) error { return d.removeAnchors(ctx, false) }

// dismiss deletes our account, and the partner's.
func (d *Driver) dismiss(ctx context.Context) error {
	rec := d.Ledger.Record()
	for _, account := range []string{partnerOf(rec).Account, rec.Account} {
		if account == "" {
			continue
		}
		uri, err := d.accountURI(ctx, account)
		if err != nil {
			return err
		}
		if err = d.BMC.Delete(ctx, uri); err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	return nil
}

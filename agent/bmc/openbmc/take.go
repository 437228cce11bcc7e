package openbmc

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/agent/takeover"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// passwordLength is OpenBMC's most, for IPMI's sake: 119 bits in base 62.
const passwordLength = 20

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// freshPassword has at least one digit, capital and small letter: some builds
// want one of each.
func freshPassword() (fleet.Secret, error) {
	for {
		text := make([]byte, passwordLength)
		for i := range text {
			n, err := rand.Int(rand.Reader, big.NewInt(int64(len(base62))))
			if err != nil {
				return fleet.Secret{}, fmt.Errorf("make a password: %w", err)
			}
			text[i] = base62[n.Int64()]
		}
		s := string(text)
		if strings.ContainsAny(s, base62[:10]) && strings.ContainsAny(s, base62[10:36]) && strings.ContainsAny(s, base62[36:]) {
			return fleet.NewSecret(s), nil
		}
	}
}

// own is the password that this BMC's user gets or has got from us, recorded
// before it is returned.
func (d *Driver) own(user string) (redfish.Credentials, error) {
	creds := redfish.Credentials{User: user}
	if sealed := d.Ledger.Record().Sealed[user]; sealed != "" {
		var err error
		creds.Password, err = d.Ledger.Open(sealed)
		return creds, err
	}
	password, err := freshPassword()
	if err != nil {
		return creds, err
	}
	sealed, err := d.Ledger.Seal(password)
	if err != nil {
		return creds, err
	}
	creds.Password = password
	return creds, d.Ledger.Keep(func(r takeover.Record) takeover.Record {
		r.Sealed = maps.Clone(r.Sealed)
		if r.Sealed == nil {
			r.Sealed = map[string]string{}
		}
		r.Sealed[user] = sealed
		return r
	})
}

func confidential(password fleet.Secret, body map[string]any) redfish.Confidential {
	body["Password"] = password.Reveal()
	return redfish.Confidential{Body: body, Secrets: []fleet.Secret{password}}
}

// accountURI is that of a user: on OpenBMC its name.
func (d *Driver) accountURI(ctx context.Context, user string) (string, error) {
	if uri, must := d.BMC.MustChange(); must {
		return string(uri), nil
	}
	root, err := d.BMC.Root(ctx)
	if err != nil {
		return "", err
	}
	return string(orURI(root.AccountService, "/redfish/v1/AccountService")) + "/Accounts/" + url.PathEscape(user), nil
}

// password gives the account that we came with a password of its own. It is
// recorded, and known to the lane, before the BMC hears of it; a login ends the
// doubt.
func (d *Driver) password(ctx context.Context) error {
	user := d.Ledger.Record().Bootstrap
	old, err := d.BMC.Credentials(ctx)
	if err != nil {
		return err
	}
	next, err := d.own(user)
	if err != nil {
		return err
	}
	if old != next {
		if err = d.changePassword(ctx, old, next); err != nil {
			return err
		}
	}
	return d.Ledger.Keep(func(r takeover.Record) takeover.Record {
		r.Unique = true
		return r
	})
}

func (d *Driver) changePassword(ctx context.Context, old, next redfish.Credentials) error {
	uri, err := d.accountURI(ctx, next.User)
	if err != nil {
		return err
	}
	mine := old.User == next.User
	if mine {
		if err = d.Vault.Propose(string(d.Node), next); err != nil {
			return err
		}
	}
	if err = d.Vault.Store(string(d.Node), next.User, next.Password); err != nil {
		return err
	}
	err = d.BMC.Patch(ctx, uri, confidential(next.Password, map[string]any{}))
	switch {
	case !mine:
		return err // our own account's right, and its login, prove it well enough
	case err != nil && !redfish.Uncertain(err):
		return errors.Join(err, d.Vault.Prove(string(d.Node), old))
	}
	if loginErr := d.BMC.LogIn(ctx, next); loginErr != nil {
		return errors.Join(err, loginErr)
	}
	return d.Vault.Prove(string(d.Node), next)
}

// clock sets the BMC's clock. Where its NTP is on and has not done so, it is off
// for a moment: the time can't be set otherwise.
func (d *Driver) clock(ctx context.Context) error {
	root, err := d.BMC.Root(ctx)
	if err != nil {
		return err
	}
	set := func() error {
		return d.BMC.Patch(ctx, string(managerOf(root)), map[string]any{"DateTime": d.Now().UTC().Format("2006-01-02T15:04:05+00:00")})
	}
	if err = set(); err == nil || !refusedAs(err, "PropertyValueConflict") {
		return orCannot(takeover.Clock, err)
	}
	ntp := func(on bool) error {
		return d.BMC.Patch(ctx, string(managerOf(root))+"/NetworkProtocol", map[string]any{"NTP": map[string]any{"ProtocolEnabled": on}})
	}
	if err = ntp(false); err != nil {
		return err
	}
	return errors.Join(set(), ntp(true))
}

// account makes our account, or takes it over from an earlier life of ours, and
// proves it by a login. From then on it is what the lane logs in with.
func (d *Driver) account(ctx context.Context) error {
	creds, err := d.own(d.Ledger.Record().Account)
	if err != nil {
		return err
	}
	if err = d.makeAccount(ctx, takeover.Account, creds); err != nil {
		return err
	}
	if err = d.BMC.Try(ctx, creds); fault.Is(err, fault.Denied) {
		if err = d.mendAccount(ctx, creds); err == nil {
			err = d.BMC.Try(ctx, creds)
		}
	}
	if err != nil {
		return err
	}
	err = errors.Join(d.Vault.Propose(string(d.Node), creds), d.Vault.Prove(string(d.Node), creds))
	if err == nil && !d.Ledger.Record().Proven() {
		err = d.BMC.LogIn(ctx, creds)
	}
	if err != nil {
		return err
	}
	return d.Ledger.Keep(func(r takeover.Record) takeover.Record {
		r.AccountProven = true
		return r
	})
}

// makeAccount is the POST. Redfish and WebUI come together, and keep the account
// off IPMI, SSH and the host's console. An account that is there is no failure.
func (d *Driver) makeAccount(ctx context.Context, step takeover.Step, creds redfish.Credentials) error {
	uri, err := d.accountURI(ctx, "")
	if err != nil {
		return err
	}
	uri = strings.TrimSuffix(uri, "/")
	have, err := redfish.Members(ctx, d.BMC, redfish.Link(uri), maxAccounts)
	if err != nil {
		return err
	}
	body := map[string]any{
		"UserName": creds.User, "RoleId": administrator, "Enabled": true, "AccountTypes": []string{"Redfish", "WebUI"},
	}
	_, err = d.BMC.Post(ctx, uri, confidential(creds.Password, body))
	if refusedAs(err, "PropertyUnknown") { // a build before account types
		delete(body, "AccountTypes")
		_, err = d.BMC.Post(ctx, uri, confidential(creds.Password, body))
	}
	if refusedAs(err, "CreateLimitReachedForResource") || refusedAs(err, "InternalError") && len(have) >= fewAccounts {
		return cannot(step, full(have))
	}
	if fault.Is(err, fault.Conflict) || refusedAs(err, "ResourceAlreadyExists") || redfish.Uncertain(err) {
		return nil // the login will tell
	}
	return err
}

// fewAccounts is the least that a full BMC holds: of OpenBMC's two kinds one is full.
const fewAccounts = 15

// full says what is to be done about a BMC that takes no more accounts.
func full(have []redfish.Link) string {
	var names []string
	for _, uri := range have {
		names = append(names, path.Base(string(uri)))
	}
	return fmt.Sprintf("the BMC takes no more accounts: it holds %d (%s); remove one that nobody needs", len(have), strings.Join(names, ", "))
}

// mendAccount makes an account that is there what it should be.
func (d *Driver) mendAccount(ctx context.Context, creds redfish.Credentials) error {
	uri, err := d.accountURI(ctx, creds.User)
	if err != nil {
		return err
	}
	return d.BMC.Patch(ctx, uri, confidential(creds.Password, map[string]any{"RoleId": administrator, "Enabled": true}))
}

func (d *Driver) anchor(ctx context.Context) error {
	return d.plantOurs(ctx, takeover.Anchor, d.Issuer.Twin())
}

// nextAnchor plants the twin of the key that is to come, if it still is.
func (d *Driver) nextAnchor(ctx context.Context) error {
	if next := d.Issuer.Next(); next != nil {
		return d.plantOurs(ctx, takeover.Second, next)
	}
	return nil
}

// plantOurs is plant of a twin that is recorded before, so that it can be removed.
func (d *Driver) plantOurs(ctx context.Context, step takeover.Step, twin []byte) error {
	mark := Fingerprint(twin)
	if err := d.Ledger.Keep(func(r takeover.Record) takeover.Record { return r.Planted(mark) }); err != nil {
		return err
	}
	return d.plant(ctx, step, twin)
}

// plant puts a twin into the truststore. What the BMC calls an internal error may be
// a duplicate or a full store: the list tells.
func (d *Driver) plant(ctx context.Context, step takeover.Step, twin []byte) error {
	root, err := d.BMC.Root(ctx)
	if err != nil {
		return err
	}
	mark := Fingerprint(twin)
	_, err = d.BMC.Post(ctx, string(truststoreOf(root)), map[string]any{"CertificateString": string(twin), "CertificateType": "PEM"})
	if err == nil {
		return nil
	}
	all, listErr := d.anchors(ctx, root)
	if listErr != nil {
		return errors.Join(err, listErr)
	}
	for _, a := range all {
		if a.print == mark {
			return nil
		}
	}
	if len(all) >= maxAnchors {
		return cannot(step, fmt.Sprintf("the BMC's truststore is full: it holds %d certificates of others; remove one that nobody needs", len(all)))
	}
	return orCannot(step, err)
}

// request lets the BMC make a key and signs it. The key is recorded before the
// certificate goes out, so that it explains what the BMC shows next.
func (d *Driver) request(ctx context.Context) error {
	root, err := d.BMC.Root(ctx)
	if err != nil {
		return err
	}
	reply, err := d.BMC.Post(ctx, "/redfish/v1/CertificateService/Actions/CertificateService.GenerateCSR", map[string]any{
		"CommonName": string(d.Node), "City": "-", "Country": "NO", "Organization": "-", "OrganizationalUnit": "-", "State": "-",
		"KeyPairAlgorithm": "EC", "KeyCurveId": "secp384r1",
		"CertificateCollection": map[string]any{"@odata.id": string(managerOf(root)) + "/NetworkProtocol/HTTPS/Certificates"},
	})
	if err != nil {
		return orCannot(takeover.Request, err)
	}
	var answer struct{ CSRString redfish.Text }
	if err = redfish.Decode(reply.Body, &answer); err != nil {
		return err
	}
	chain, err := d.Issuer.BMCServer([]byte(answer.CSRString), string(d.Node), d.Addresses...)
	if err != nil {
		return err
	}
	pin, err := leafPin(chain)
	if err != nil {
		return err
	}
	twin := d.Issuer.Twin()
	return d.Ledger.Keep(func(r takeover.Record) takeover.Record {
		return r.Signed(pin, string(chain), Fingerprint(twin), string(twin))
	})
}

// httpsCertificate is where bmcweb takes the new certificate: its parser knows no
// other manager than "bmc".
const httpsCertificate = "/redfish/v1/Managers/bmc/NetworkProtocol/HTTPS/Certificates/1"

// A new certificate is served within a second; a busy BMC may take longer.
const (
	servedTries = 20
	servedWait  = 500 * time.Millisecond
)

// install has the certificate served, and sees it.
func (d *Driver) install(ctx context.Context) error {
	rec := d.Ledger.Record()
	_, err := d.BMC.Post(ctx, "/redfish/v1/CertificateService/Actions/CertificateService.ReplaceCertificate", map[string]any{
		"CertificateString": rec.Chain, "CertificateType": "PEM",
		"CertificateUri": map[string]any{"@odata.id": httpsCertificate},
	})
	if refusedAs(err, "PropertyValueIncorrect") { // the BMC has made another key since
		if err = d.Ledger.Keep(takeover.Record.Unsigned); err != nil {
			return err
		}
		return fault.New(fault.Conflict, "install the certificate", "the BMC has made another key since; it is asked anew")
	}
	if err != nil && !redfish.Uncertain(err) {
		return err
	}
	for range servedTries {
		d.BMC.Reconnect()
		if _, err = d.BMC.Fetch(ctx, "/redfish/v1"); err != nil {
			return err
		}
		if redfish.PinOf(d.BMC.Peer().Certificate) == rec.Next {
			return nil
		}
		if !d.Wait(ctx, servedWait) {
			return ctx.Err()
		}
	}
	return fault.New(fault.Unavailable, "install the certificate", "the BMC took it and does not serve it")
}

func (d *Driver) patchAccountService(ctx context.Context, body map[string]any) error {
	root, err := d.BMC.Root(ctx)
	if err != nil {
		return err
	}
	return d.BMC.Patch(ctx, string(orURI(root.AccountService, "/redfish/v1/AccountService")), body)
}

func (d *Driver) methods(ctx context.Context) error {
	return orCannot(takeover.Methods, d.patchAccountService(ctx, authMethods(map[string]any{"TLS": true})))
}

func authMethods(methods map[string]any) map[string]any {
	return map[string]any{"Oem": map[string]any{"OpenBMC": map[string]any{"AuthMethods": methods}}}
}

// mapping stands alone in its PATCH: bmcweb ignores what comes with it.
func (d *Driver) mapping(ctx context.Context) error {
	return orCannot(takeover.Mapping, d.patchAccountService(ctx, clientCertificate("CertificateMappingAttribute", "CommonName")))
}

func clientCertificate(name string, value any) map[string]any {
	return map[string]any{"MultiFactorAuth": map[string]any{"ClientCertificate": map[string]any{name: value}}}
}

// prove logs in by certificate on a new connection. From then on the lane needs
// no session.
func (d *Driver) prove(ctx context.Context) error {
	cert, err := d.Ledger.Certificate()
	if err != nil {
		return err
	}
	asked, err := d.BMC.TryCertificate(ctx, cert)
	if err != nil {
		if !asked && !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.Timeout) {
			return cannot(takeover.Prove, "the BMC asks nobody for a certificate: a build with the web interface or without mutual TLS (openbmc/bmcweb#296); tokens are used")
		}
		return err
	}
	twin := Fingerprint(d.Issuer.Twin())
	if err = d.Ledger.Keep(func(r takeover.Record) takeover.Record {
		r.ProvenBy = twin
		return r
	}); err != nil {
		return err
	}
	d.BMC.Reconnect()
	return d.BMC.LogOut(ctx)
}

// strict is taken only from a connection with a certificate. It stands alone in
// its PATCH.
func (d *Driver) strict(ctx context.Context) error {
	err := d.patchAccountService(ctx, clientCertificate("RespondToUnauthenticatedClients", false))
	if refusedAs(err, "PropertyValueExternalConflict") {
		d.BMC.Reconnect() // it was not by certificate: prove it again on a new connection
	}
	return err
}

// remember notes once what was on before.
func (d *Driver) remember() error {
	return d.Ledger.Keep(func(r takeover.Record) takeover.Record {
		if r.Before == nil {
			weak := r.Seen.Weak()
			r.Before = &weak
		}
		return r
	})
}

func (d *Driver) logins(ctx context.Context) error {
	if err := d.remember(); err != nil {
		return err
	}
	body := authMethods(map[string]any{"Cookie": false})
	body["HTTPBasicAuth"] = "Disabled"
	return d.patchAccountService(ctx, body)
}

func (d *Driver) services(ctx context.Context) error {
	if err := d.remember(); err != nil {
		return err
	}
	seen := d.Ledger.Record().Seen
	return orCannot(takeover.Services, d.setServices(ctx, seen.Weak(), takeover.Weak{}))
}

// setServices writes only what is to change: a service that a build lacks is
// refused.
func (d *Driver) setServices(ctx context.Context, now, want takeover.Weak) error {
	root, err := d.BMC.Root(ctx)
	if err != nil {
		return err
	}
	body := map[string]any{}
	if now.IPMI != want.IPMI {
		body["IPMI"] = map[string]any{"ProtocolEnabled": want.IPMI}
	}
	if now.SSH != want.SSH {
		body["SSH"] = map[string]any{"ProtocolEnabled": want.SSH}
	}
	if len(body) == 0 {
		return nil
	}
	return d.BMC.Patch(ctx, string(managerOf(root))+"/NetworkProtocol", body)
}

// closeRoot disables the account that we came with: OpenBMC's root can't be
// deleted. Its password stays recorded.
func (d *Driver) closeRoot(ctx context.Context) error {
	uri, err := d.accountURI(ctx, d.Ledger.Record().Bootstrap)
	if err != nil {
		return err
	}
	return d.BMC.Patch(ctx, uri, map[string]any{"Enabled": false})
}

// prune removes anchors of ours that no certificate of ours needs any longer.
func (d *Driver) prune(ctx context.Context) error { return d.removeAnchors(ctx, true) }

func (d *Driver) removeAnchors(ctx context.Context, keepTwin bool) error {
	root, err := d.BMC.Root(ctx)
	if err != nil {
		return err
	}
	all, err := d.anchors(ctx, root)
	if err != nil {
		return err
	}
	rec := d.Ledger.Record()
	inUse := []string{Fingerprint(d.Issuer.Twin()), Fingerprint(d.Issuer.Next()), partnerOf(rec).Print}
	for _, a := range all {
		needed := a.print != "" && slices.Contains(inUse, a.print)
		if !needed && !slices.Contains(rec.Anchors, a.print) || keepTwin && needed {
			continue
		}
		if err = d.BMC.Delete(ctx, string(a.uri)); err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	return nil
}

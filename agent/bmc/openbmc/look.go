package openbmc

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"slices"
	"time"

	"github.com/chiba-mesh/chiba/agent/takeover"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish"
)

const (
	maxMembers  = 16 // OpenBMC holds 10 anchors
	maxAnchors  = 10
	maxAccounts = 32 // OpenBMC holds 15 that may use IPMI and 15 others; builds differ
	accountsURI = "/redfish/v1/AccountService/Accounts"
)

// accountService is what is read of the AccountService.
type accountService struct {
	Accounts  redfish.Link
	BasicAuth redfish.Text `json:"HTTPBasicAuth"`
	MFA       struct {
		Client *struct {
			Mapping redfish.Text `json:"CertificateMappingAttribute"`
			Respond redfish.Flag `json:"RespondToUnauthenticatedClients"`
		} `json:"ClientCertificate"`
	} `json:"MultiFactorAuth"`
	Oem struct {
		OpenBMC struct {
			Methods *struct{ BasicAuth, Cookie, TLS redfish.Flag } `json:"AuthMethods"`
		}
	}
}

type account struct {
	UserName redfish.Text
	RoleID   redfish.Text `json:"RoleId"`
	Enabled  redfish.Flag
}

type manager struct {
	DateTime        redfish.Text
	NetworkProtocol redfish.Link
	Oem             struct {
		OpenBmc struct{ Certificates redfish.Link }
	}
}

type protocol struct{ ProtocolEnabled redfish.Flag }

type networkProtocol struct {
	NTP, IPMI, SSH protocol
}

type certificate struct{ CertificateString redfish.Text }

// Look is what the BMC shows now.
func (d *Driver) Look(ctx context.Context) (takeover.Facts, error) {
	rec := d.Ledger.Record()
	f := takeover.Facts{At: d.Now(), Twin: Fingerprint(d.Issuer.Twin()), Next: Fingerprint(d.Issuer.Next()), Lacks: map[takeover.Step]string{}}
	creds, err := d.enter(ctx)
	if err != nil {
		return f, err
	}
	d.peer(&f)
	f.As = creds.User
	if _, f.MustChange = d.BMC.MustChange(); f.MustChange {
		return f, nil
	}
	root, err := d.BMC.Root(ctx)
	if err != nil {
		return f, err
	}
	err = errors.Join(d.lookAccounts(ctx, root, rec, &f), d.lookManager(ctx, root, rec, &f), d.lookSystem(ctx, root, &f))
	if err != nil {
		// A fresh image says only now that it wants a new password first.
		if _, f.MustChange = d.BMC.MustChange(); f.MustChange {
			return f, nil
		}
		return f, err
	}
	if root.Links.Provider == "" && f.Lacks[takeover.Request] == "" {
		f.Lacks[takeover.Request] = "this BMC names no manager of its own"
	}
	now, err := d.BMC.Credentials(ctx)
	f.As, f.ByCertificate = now.User, now.Password.Empty()
	d.peer(&f)
	return f, err
}

func (d *Driver) peer(f *takeover.Facts) {
	peer := d.BMC.Peer()
	f.Asked = peer.Asked
	if peer.Certificate != nil {
		f.Key, f.Ends = redfish.PinOf(peer.Certificate), peer.Certificate.NotAfter
	}
}

// enter finds a way in: what the lane logs in with, and if that is refused the
// passwords that were recorded before the BMC heard of them.
func (d *Driver) enter(ctx context.Context) (redfish.Credentials, error) {
	creds, err := d.BMC.Credentials(ctx)
	if err == nil || !fault.Is(err, fault.Denied) {
		return creds, err
	}
	rec := d.Ledger.Record()
	for _, user := range []string{rec.Account, rec.Bootstrap} {
		sealed := rec.Sealed[user]
		if sealed == "" {
			continue
		}
		password, openErr := d.Ledger.Open(sealed)
		if openErr != nil {
			return creds, openErr
		}
		kept := redfish.Credentials{User: user, Password: password}
		if d.BMC.LogIn(ctx, kept) == nil {
			return kept, errors.Join(d.Vault.Propose(string(d.Node), kept), d.Vault.Prove(string(d.Node), kept))
		}
	}
	return creds, err
}

func (d *Driver) lookAccounts(ctx context.Context, root *redfish.Root, rec takeover.Record, f *takeover.Facts) error {
	var s accountService
	if err := redfish.Get(ctx, d.BMC, orURI(root.AccountService, "/redfish/v1/AccountService"), &s); err != nil {
		return err
	}
	f.Basic = s.BasicAuth == "Enabled"
	if m := s.Oem.OpenBMC.Methods; m != nil {
		f.Basic, f.Cookie, f.TLS = f.Basic || m.BasicAuth.Value, m.Cookie.Value, m.TLS.Value
	} else {
		f.Lacks[takeover.Methods] = "this BMC shows no switch for the login by certificate"
	}
	if c := s.MFA.Client; c != nil {
		f.ByCommonName, f.Strict = c.Mapping == "CommonName", c.Respond.Set && !c.Respond.Value
	} else {
		why := "this BMC shows no settings for client certificates"
		f.Lacks[takeover.Mapping], f.Lacks[takeover.Strict] = why, why
	}
	members, err := redfish.Members(ctx, d.BMC, orURI(s.Accounts, accountsURI), maxAccounts)
	if err != nil {
		return err
	}
	for _, m := range members {
		var a account
		if err := redfish.Get(ctx, d.BMC, m, &a); err != nil {
			return err
		}
		switch string(a.UserName) {
		case rec.Account:
			f.AccountThere, f.AccountGood = true, a.Enabled.Value && a.RoleID == administrator
		case partnerOf(rec).Account:
			f.PartnerThere, f.PartnerGood = true, a.Enabled.Value && a.RoleID == administrator
		case rec.Bootstrap:
			f.RootEnabled = a.Enabled.Value
		}
	}
	return nil
}

func (d *Driver) lookManager(ctx context.Context, root *redfish.Root, rec takeover.Record, f *takeover.Facts) error {
	var m manager
	sent := d.Now()
	if err := redfish.Get(ctx, d.BMC, managerOf(root), &m); err != nil {
		return err
	}
	if t, err := time.Parse(time.RFC3339, string(m.DateTime)); err == nil {
		f.ClockOff = t.Sub(sent)
	}
	var n networkProtocol
	if m.NetworkProtocol != "" {
		if err := redfish.Get(ctx, d.BMC, m.NetworkProtocol, &n); err != nil {
			return err
		}
	}
	f.IPMI, f.SSH = n.IPMI.ProtocolEnabled.Value, n.SSH.ProtocolEnabled.Value
	anchors, err := d.anchors(ctx, root)
	if fault.Is(err, fault.NotFound) {
		f.Lacks[takeover.Anchor] = "this BMC has no truststore"
		return nil
	}
	for _, a := range anchors {
		switch {
		case a.print == f.Twin:
			f.Anchored = true
		case a.print == partnerOf(rec).Print:
			f.PartnerRoot = true
		case f.Next != "" && a.print == f.Next:
			f.NextAnchored = true
		case slices.Contains(rec.Anchors, a.print):
			f.StaleAnchors++
		}
	}
	return err
}

func (d *Driver) lookSystem(ctx context.Context, root *redfish.Root, f *takeover.Facts) error {
	systems, err := redfish.Members(ctx, d.BMC, root.Systems, 1)
	if err != nil || len(systems) == 0 {
		return err
	}
	var s struct{ SerialNumber redfish.Text }
	err = redfish.Get(ctx, d.BMC, systems[0], &s)
	f.Serial = string(s.SerialNumber)
	return err
}

// entry is one anchor of the truststore.
type entry struct {
	uri   redfish.Link
	print string
}

func (d *Driver) anchors(ctx context.Context, root *redfish.Root) ([]entry, error) {
	members, err := redfish.Members(ctx, d.BMC, truststoreOf(root), maxMembers)
	if err != nil {
		return nil, err
	}
	var all []entry
	for _, m := range members {
		var c certificate
		if err := redfish.Get(ctx, d.BMC, m, &c); err != nil {
			return nil, err
		}
		all = append(all, entry{m, Fingerprint([]byte(c.CertificateString))})
	}
	return all, nil
}

// Fingerprint is the hash of the first certificate of a PEM text, "" if there is
// none.
func Fingerprint(text []byte) string {
	block, _ := pem.Decode(text)
	if block == nil {
		return ""
	}
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:])
}

// leafPin is the pin of the first certificate of a PEM text.
func leafPin(text []byte) (string, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return "", fault.New(fault.Garbage, "read the certificate", "it is not PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", fault.Wrap(fault.Garbage, "read the certificate", err)
	}
	return redfish.PinOf(cert), nil
}

func managerOf(root *redfish.Root) redfish.Link {
	return orURI(root.Links.Provider, "/redfish/v1/Managers/bmc")
}

func truststoreOf(root *redfish.Root) redfish.Link {
	return managerOf(root) + "/Truststore/Certificates"
}

func orURI(uri, otherwise redfish.Link) redfish.Link {
	if uri == "" {
		return otherwise
	}
	return uri
}

package openbmc

import (
	"context"
	"net/url"

	"github.com/chiba-mesh/chiba/agent/takeover"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// Roles of accounts.
const (
	administrator = "Administrator"
	readOnly      = "ReadOnly"
)

const maxSessions = 100

// partnerOf is the other agent of the rack, as the record has it.
func partnerOf(r takeover.Record) takeover.Partner {
	if r.Partner == nil {
		return takeover.Partner{}
	}
	return *r.Partner
}

// pair makes the other agent of the rack one that can log in, or one that can only
// read. Its password is one of our making, which it is told with the ledger.
func (d *Driver) pair(ctx context.Context) error {
	p := partnerOf(d.Ledger.Record())
	if p.Shut {
		return d.setRole(ctx, p.Account, readOnly)
	}
	creds, err := d.own(p.Account)
	if err != nil {
		return err
	}
	if err = d.makeAccount(ctx, takeover.Pair, creds); err != nil {
		return err
	}
	if err = d.mendAccount(ctx, creds); err != nil {
		return err
	}
	if !d.Ledger.Record().Seen.Strict { // else nobody gets an answer without its certificate
		if err = d.BMC.Try(ctx, creds); err != nil {
			return err
		}
	}
	if d.Ledger.Record().Seen.Lacks[takeover.Anchor] == "" {
		if err = d.plant(ctx, takeover.Pair, []byte(p.Twin)); err != nil {
			return err
		}
	}
	return d.Ledger.Keep(func(r takeover.Record) takeover.Record {
		if r.Partner != nil && r.Partner.Account == p.Account {
			made := *r.Partner
			made.Made = true
			r.Partner = &made
		}
		return r
	})
}

func (d *Driver) setRole(ctx context.Context, account, role string) error {
	uri, err := d.accountURI(ctx, account)
	if err != nil {
		return err
	}
	if err = d.BMC.Patch(ctx, uri, map[string]any{"RoleId": role}); fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// Fence is what a new owner does first: the account of the other agent can only
// read from now on, also over a connection by certificate that is open, and its
// sessions end. What has our own mark is spared.
type Fence struct {
	Account string                 // of the other agent, "" if it has none here
	Others  func(mark string) bool // the marks of sessions that are to end
}

// Shut puts up a fence. It is done when it returns nil; a BMC that does not know
// sessions or the account needs none.
func Shut(ctx context.Context, to BMC, f Fence) error {
	root, err := to.Root(ctx)
	if err != nil {
		return err
	}
	if f.Account != "" {
		if err = to.Patch(ctx, accountOf(root, f.Account), map[string]any{"RoleId": readOnly}); err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	all, err := redfish.Members(ctx, to, root.SessionsURI(), maxSessions)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	for _, uri := range all {
		var s struct{ UserName, Context redfish.Text }
		if getErr := redfish.Get(ctx, to, uri, &s); fault.Is(getErr, fault.NotFound) {
			continue
		} else if getErr != nil {
			return getErr
		}
		if f.Account == "" || string(s.UserName) != f.Account {
			if !f.Others(string(s.Context)) {
				continue
			}
		}
		if err = to.Delete(ctx, string(uri)); err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	return err
}

// LetIn makes an account an administrator again.
func LetIn(ctx context.Context, to BMC, account string) error {
	root, err := to.Root(ctx)
	if err != nil {
		return err
	}
	return to.Patch(ctx, accountOf(root, account), map[string]any{"RoleId": administrator})
}

func accountOf(root *redfish.Root, account string) string {
	return string(orURI(root.AccountService, "/redfish/v1/AccountService")) + "/Accounts/" + url.PathEscape(account)
}

// ShutOut reports whether our own account can only read: another agent owns the
// rack. It is asked when the BMC has refused a write.
func ShutOut(ctx context.Context, to BMC, account string) (bool, error) {
	root, err := to.Root(ctx)
	if err != nil {
		return false, err
	}
	var a struct {
		RoleID redfish.Text `json:"RoleId"`
	}
	if err = redfish.Get(ctx, to, redfish.Link(accountOf(root, account)), &a); fault.Is(err, fault.NotFound) {
		return false, nil
	}
	return a.RoleID == readOnly, err
}

package bmcsim

import (
	"net/http"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/auth"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/input"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
)

// mustChange reports whether who asks may do nothing but change the password:
// an account of a fresh image, except on its own account.
func (b *BMC) mustChange(q *request, rt *route) bool {
	a := b.state.Accounts[q.user]
	if a == nil || !a.Expired {
		return false
	}
	own := rt.path == accountsURI+"/{account}" && q.args["account"] == q.user && q.method == http.MethodPatch
	leaving := q.method == http.MethodDelete && q.session != nil && q.args["session"] == q.session.ID
	return !own && !leaving
}

// refuseMethods are the changes of the ways to log in that bmcweb does not make:
// TLS where it was left out of the build, and the last way of all.
func (b *BMC) refuseMethods(v input.Values) *reply {
	const methods = "Oem/OpenBMC/AuthMethods/"
	if on, given := v.Bool(methods + "TLS"); given && on && b.cfg.NoTLSLogin {
		r := badRequest("ActionNotSupported", "Setting TLS when mTLS auth is disabled")
		return &r
	}
	left := false
	for name, on := range b.state.Auth.ByName() {
		want, given := v.Bool(methods + name)
		if !given {
			want = *on
		}
		if mode, given := v.Text("HTTPBasicAuth"); given && name == "BasicAuth" {
			want = mode == "Enabled"
		}
		left = left || want
	}
	if left {
		return nil
	}
	r := badRequest("ActionNotSupported", "of disabling all available methods")
	return &r
}

// refuseTypes are the account types that OpenBMC does not take: Redfish and WebUI
// are one group of its users and come together.
func refuseTypes(types []string) *reply {
	if unknown, found := auth.UnknownType(types); found {
		r := badRequest("PropertyValueNotInList", message.Quoted(unknown), "AccountTypes")
		return &r
	}
	if !auth.GroupedTypes(types) {
		r := badRequest("StrictAccountTypes", "AccountTypes")
		return &r
	}
	return nil
}

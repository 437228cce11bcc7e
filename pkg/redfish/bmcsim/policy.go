package bmcsim

import (
	"net/http"
	"slices"
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
func (b *BMC) refuseMethods(v values) *reply {
	const methods = "Oem/OpenBMC/AuthMethods/"
	if on, given := v.bool(methods + "TLS"); given && on && b.cfg.NoTLSLogin {
		r := badRequest("ActionNotSupported", "Setting TLS when mTLS auth is disabled")
		return &r
	}
	now := map[string]bool{
		"BasicAuth": b.state.Auth.BasicAuth, "Cookie": b.state.Auth.Cookie, "SessionToken": b.state.Auth.SessionToken,
		"XToken": b.state.Auth.XToken, "TLS": b.state.Auth.TLS,
	}
	left := false
	for name, on := range now {
		if want, given := v.bool(methods + name); given {
			on = want
		}
		if mode, given := v.text("HTTPBasicAuth"); given && name == "BasicAuth" {
			on = mode == "Enabled"
		}
		left = left || on
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
	known := []string{"Redfish", "WebUI", "IPMI", "ManagerConsole", "HostConsole"}
	for _, t := range types {
		if !slices.Contains(known, t) {
			r := badRequest("PropertyValueNotInList", quoted(t), "AccountTypes")
			return &r
		}
	}
	if len(types) == 0 || slices.Contains(types, "Redfish") != slices.Contains(types, "WebUI") {
		r := badRequest("StrictAccountTypes", "AccountTypes")
		return &r
	}
	return nil
}

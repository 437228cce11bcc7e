package bmcsim

import (
	"errors"
	"maps"
	"net/http"
	"slices"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/auth"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/certs"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/hardware"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/input"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
)

const (
	accountServiceURI = "/redfish/v1/AccountService"
	accountsURI       = accountServiceURI + "/Accounts"
	rolesURI          = accountServiceURI + "/Roles"
)

func accountRoutes() []route {
	return []route{
		{path: accountServiceURI, head: true, schema: "AccountService/AccountService", do: map[string]deed{
			http.MethodGet:   {auth.Login, getAccountService},
			http.MethodPatch: {auth.ConfigureUsers, patchAccountService},
		}},
		{path: accountsURI, head: true, schema: "ManagerAccountCollection", do: map[string]deed{
			http.MethodGet:  {auth.Login, getAccounts},
			http.MethodPost: {auth.ConfigureUsers, postAccount},
		}},
		{path: accountsURI + "/{account}", head: true, schema: "ManagerAccount/ManagerAccount", linkEarly: true, do: map[string]deed{
			http.MethodGet:    {auth.Login, getAccount},
			http.MethodPatch:  {auth.ConfigureSelf, patchAccount},
			http.MethodDelete: {auth.ConfigureUsers, deleteAccount},
		}},
		{path: rolesURI, do: map[string]deed{http.MethodGet: {auth.Login, getRoles}}},
		{path: rolesURI + "/{role}", do: map[string]deed{http.MethodGet: {auth.Login, getRole}}},
	}
}

func getAccountService(b *BMC, _ *request) reply {
	methods := b.state.Auth
	directory := func(extra obj) obj {
		o := obj{
			"Authentication":    obj{"AuthenticationType": "UsernameAndPassword", "Password": nil, "Username": ""},
			"LDAPService":       obj{"SearchSettings": obj{"BaseDistinguishedNames": []string{}, "GroupsAttribute": "", "UsernameAttribute": ""}},
			"RemoteRoleMapping": []obj{}, "ServiceAddresses": []string{}, "ServiceEnabled": false,
		}
		maps.Copy(o, extra)
		return o
	}
	basicAuth := "Disabled"
	if methods.BasicAuth {
		basicAuth = "Enabled"
	}
	return ok(obj{
		"@odata.id": accountServiceURI, "@odata.type": "#AccountService.v1_15_0.AccountService",
		"AccountLockoutDuration": b.state.LockoutDuration, "AccountLockoutThreshold": b.state.LockoutThreshold,
		"Accounts": hardware.Link(accountsURI), "Roles": hardware.Link(rolesURI),
		"ActiveDirectory": directory(nil),
		"LDAP":            directory(obj{"Certificates": hardware.Link(ldapURI)}),
		"Description":     "Account Service", "Id": "AccountService", "Name": "Account Service", "ServiceEnabled": true,
		"HTTPBasicAuth": basicAuth, "HTTPBasicAuth@Redfish.AllowableValues": []string{"Enabled", "Disabled"},
		"MaxPasswordLength": auth.MaxPassword, "MinPasswordLength": b.cfg.MinPasswordLength,
		"MultiFactorAuth": obj{"ClientCertificate": obj{
			"CertificateMappingAttribute": b.state.Mapping, "Certificates": hardware.Link(mfaURI),
			"Enabled": methods.TLS, "RespondToUnauthenticatedClients": !b.state.Strict,
		}},
		"Oem": obj{"OpenBMC": obj{
			"@odata.id":   accountServiceURI + "#/Oem/OpenBMC",
			"@odata.type": "#OpenBMCAccountService.v1_0_0.AccountService",
			"AuthMethods": obj{
				"BasicAuth": methods.BasicAuth, "Cookie": methods.Cookie, "SessionToken": methods.SessionToken,
				"TLS": methods.TLS, "XToken": methods.XToken,
			},
		}},
	})
}

func patchAccountService(b *BMC, q *request) reply {
	const methods = "Oem/OpenBMC/AuthMethods/"
	v, r, valid := q.patch(
		input.Field{Path: "AccountLockoutThreshold", Kind: input.Int}, input.Field{Path: "AccountLockoutDuration", Kind: input.Int},
		input.Field{Path: "HTTPBasicAuth"},
		input.Field{Path: methods + "BasicAuth", Kind: input.Bool}, input.Field{Path: methods + "Cookie", Kind: input.Bool},
		input.Field{Path: methods + "SessionToken", Kind: input.Bool}, input.Field{Path: methods + "XToken", Kind: input.Bool},
		input.Field{Path: methods + "TLS", Kind: input.Bool},
		input.Field{Path: clientCertificate + "CertificateMappingAttribute"}, input.Field{Path: clientCertificate + "RespondToUnauthenticatedClients", Kind: input.Bool},
	)
	if !valid {
		return r
	}
	if r := b.patchClientCertificate(q, v); r != nil {
		return *r
	}
	if r := b.refuseMethods(v); r != nil {
		return *r
	}
	s := b.state
	if mode, given := v.Text("HTTPBasicAuth"); given {
		if mode != "Enabled" && mode != "Disabled" {
			return badRequest("PropertyValueNotInList", message.Quoted(mode), "HttpBasicAuth")
		}
		s.Auth.BasicAuth = mode == "Enabled"
	}
	for path, to := range map[string]*int{"AccountLockoutThreshold": &s.LockoutThreshold, "AccountLockoutDuration": &s.LockoutDuration} {
		if n, given := v.Int(path); given {
			*to = max(n, 0)
		}
	}
	for name, to := range s.Auth.ByName() {
		if on, given := v.Bool(methods + name); given {
			*to = on
		}
	}
	q.dirty = true
	return noContent()
}

const clientCertificate = "MultiFactorAuth/ClientCertificate/"

// patchClientCertificate answers 200 with nothing, and lets only somebody who
// came with a certificate shut out those who have none.
func (b *BMC) patchClientCertificate(q *request, v input.Values) *reply {
	done := reply{status: http.StatusOK}
	mapping, mapped := v.Text(clientCertificate + "CertificateMappingAttribute")
	respond, given := v.Bool(clientCertificate + "RespondToUnauthenticatedClients")
	switch {
	case mapped && mapping != string(certs.CommonName) && mapping != string(certs.UserPrincipalName):
		r := badRequest("PropertyValueNotInList", message.Quoted(mapping), "CertificateMappingAttribute")
		return &r
	case given && !respond && !q.byCertificate:
		r := failure(http.StatusConflict, message.New("PropertyValueExternalConflict", clientCertificate+"RespondToUnauthenticatedClients", "false"))
		return &r
	case mapped:
		b.state.Mapping = certs.Mapping(mapping)
	case given:
	default:
		return nil
	}
	if given {
		b.state.Strict = !respond
	}
	q.dirty = true
	return &done
}

// getAccounts shows others than administrators only their own account.
func getAccounts(b *BMC, q *request) reply {
	names := slices.Sorted(maps.Keys(b.state.Accounts))
	if !q.role.May(auth.ConfigureUsers) {
		names = []string{q.user}
	}
	return collection(accountsURI, "ManagerAccountCollection", "Accounts Collection", names, obj{"Description": "BMC User Accounts"})
}

func postAccount(b *BMC, q *request) reply {
	v, r, valid := q.patch(input.Field{Path: "UserName", Need: true}, input.Field{Path: "Password", Need: true},
		input.Field{Path: "RoleId"}, input.Field{Path: "Enabled", Kind: input.Bool}, input.Field{Path: "AccountTypes", Kind: input.Texts})
	if !valid {
		return r
	}
	name, _ := v.Text("UserName")
	password, _ := v.Text("Password")
	a := &auth.Account{Role: auth.ReadOnly, Enabled: true}
	if id, given := v.Text("RoleId"); given {
		if !auth.Known(id) {
			return badRequest("PropertyValueNotInList", message.Quoted(id), "RoleId")
		}
		a.Role = auth.Role(id)
	}
	if on, given := v.Bool("Enabled"); given {
		a.Enabled = on
	}
	if types, given := v["AccountTypes"].([]string); given {
		if r := refuseTypes(types); r != nil {
			return *r
		}
		a.Types = types
	}
	switch {
	case b.state.Accounts[name] != nil:
		return failure(http.StatusConflict, message.New("ResourceAlreadyExists", "ManagerAccount", "UserName", name))
	case !auth.ValidName(name):
		return badRequest("PropertyValueFormatError", message.Quoted(name), "UserName")
	}
	if refusal, set := b.setPassword(a, name, password); !set {
		return refusal
	}
	b.state.Accounts[name], q.dirty = a, true
	r = note(http.StatusCreated, "Created")
	r.set("Location", accountsURI+"/"+name)
	return r
}

// setPassword applies OpenBMC's rules. The refusal hides the password, as
// bmcweb does: its value reads 'null'.
func (b *BMC) setPassword(a *auth.Account, name, password string) (reply, bool) {
	switch err := a.SetPassword(name, password, b.cfg.MinPasswordLength, b.cfg.Rand); {
	case errors.Is(err, auth.ErrWeak):
		return badRequest("PropertyValueFormatError", "null", "Password"), false
	case err != nil:
		return internalError(), false
	}
	return reply{}, true
}

func getAccount(b *BMC, q *request) reply {
	name := q.args["account"]
	a := b.state.Accounts[name]
	switch {
	case name != q.user && !q.role.May(auth.ConfigureUsers):
		return failure(http.StatusForbidden, message.New("InsufficientPrivilege"))
	case a == nil:
		return notFound("ManagerAccount", name)
	}
	return ok(obj{
		"@odata.id": accountsURI + "/" + name, "@odata.type": "#ManagerAccount.v1_7_0.ManagerAccount",
		"AccountTypes": a.AccountTypes(name), "Description": "User Account", "Enabled": a.Enabled, "Id": name,
		"Links":  obj{"Role": hardware.Link(rolesURI + "/" + string(a.Role))},
		"Locked": b.state.Locked(a, q.now), "Locked@Redfish.AllowableValues": []string{"false"},
		"Name": "User Account", "Password": nil, "PasswordChangeRequired": a.Expired,
		"RoleId": a.Role, "StrictAccountTypes": true, "UserName": name,
	})
}

// patchAccount lets people without the right to configure users change their
// own password and nothing else.
func patchAccount(b *BMC, q *request) reply {
	name := q.args["account"]
	fields := []input.Field{{Path: "Password"}}
	if q.role.May(auth.ConfigureUsers) {
		fields = append(fields, input.Field{Path: "RoleId"}, input.Field{Path: "Enabled", Kind: input.Bool}, input.Field{Path: "Locked", Kind: input.Bool})
	} else if name != q.user {
		return failure(http.StatusForbidden, message.New("InsufficientPrivilege"))
	}
	v, r, valid := q.patch(fields...)
	if !valid {
		return r
	}
	a := b.state.Accounts[name]
	if a == nil {
		return notFound("ManagerAccount", name)
	}
	changed := *a
	if r := b.changeAccount(&changed, name, v); r != nil {
		return *r
	}
	if changed.Hash != a.Hash || !changed.Enabled {
		b.state.EndSessions(name)
	}
	*a, q.dirty = changed, true
	return noContent()
}

func (b *BMC) changeAccount(a *auth.Account, name string, v input.Values) *reply {
	if id, given := v.Text("RoleId"); given {
		if !auth.Known(id) {
			r := badRequest("PropertyValueNotInList", message.Quoted(id), "RoleId")
			return &r
		}
		a.Role = auth.Role(id)
	}
	if locked, given := v.Bool("Locked"); given {
		if locked { // nobody can be locked by hand
			r := badRequest("PropertyValueNotInList", "true", "Locked")
			return &r
		}
		a.Failures = 0
	}
	if on, given := v.Bool("Enabled"); given {
		a.Enabled = on
	}
	if password, given := v.Text("Password"); given {
		if r, set := b.setPassword(a, name, password); !set {
			return &r
		}
	}
	return nil
}

func deleteAccount(b *BMC, q *request) reply {
	name := q.args["account"]
	if b.state.Accounts[name] == nil {
		return notFound("ManagerAccount", name)
	}
	delete(b.state.Accounts, name)
	b.state.EndSessions(name)
	q.dirty = true
	return note(http.StatusOK, "AccountRemoved")
}

func getRoles(*BMC, *request) reply {
	return collection(rolesURI, "RoleCollection", "Roles Collection", auth.Roles(), obj{"Description": "BMC User Roles"})
}

func getRole(_ *BMC, q *request) reply {
	id := q.args["role"]
	if !auth.Known(id) {
		return notFound("Role", id)
	}
	return ok(obj{
		"@odata.id": rolesURI + "/" + id, "@odata.type": "#Role.v1_2_2.Role",
		"AssignedPrivileges": auth.Role(id).Privileges(), "Description": id + " User Role", "Id": id,
		"IsPredefined": true, "Name": "User Role", "OemPrivileges": []string{}, "RoleId": id,
	})
}

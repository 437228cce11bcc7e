package bmcsim

import (
	"maps"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/certs"
)

const (
	accountServiceURI = "/redfish/v1/AccountService"
	accountsURI       = accountServiceURI + "/Accounts"
	rolesURI          = accountServiceURI + "/Roles"
	maxPassword       = 20 // fixed in OpenBMC, for IPMI's sake
)

var userName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z_0-9-]{0,99}$`)

type account struct {
	Hash     string
	Role     role
	Enabled  bool
	Expired  bool      // the password must be changed before anything else
	Types    []string  // AccountTypes; nil: all that a new account gets
	Failures int       // failed logins in a row
	Failed   time.Time // the last of them
}

func accountRoutes() []route {
	return []route{
		{path: accountServiceURI, head: true, schema: "AccountService/AccountService", do: map[string]deed{
			http.MethodGet:   {login, getAccountService},
			http.MethodPatch: {configureUsers, patchAccountService},
		}},
		{path: accountsURI, head: true, schema: "ManagerAccountCollection", do: map[string]deed{
			http.MethodGet:  {login, getAccounts},
			http.MethodPost: {configureUsers, postAccount},
		}},
		{path: accountsURI + "/{account}", head: true, schema: "ManagerAccount/ManagerAccount", linkEarly: true, do: map[string]deed{
			http.MethodGet:    {login, getAccount},
			http.MethodPatch:  {configureSelf, patchAccount},
			http.MethodDelete: {configureUsers, deleteAccount},
		}},
		{path: rolesURI, do: map[string]deed{http.MethodGet: {login, getRoles}}},
		{path: rolesURI + "/{role}", do: map[string]deed{http.MethodGet: {login, getRole}}},
	}
}

func getAccountService(b *BMC, _ *request) reply {
	auth := b.state.Auth
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
	if auth.BasicAuth {
		basicAuth = "Enabled"
	}
	return ok(obj{
		"@odata.id": accountServiceURI, "@odata.type": "#AccountService.v1_15_0.AccountService",
		"AccountLockoutDuration": b.state.LockoutDuration, "AccountLockoutThreshold": b.state.LockoutThreshold,
		"Accounts": link(accountsURI), "Roles": link(rolesURI),
		"ActiveDirectory": directory(nil),
		"LDAP":            directory(obj{"Certificates": link(ldapURI)}),
		"Description":     "Account Service", "Id": "AccountService", "Name": "Account Service", "ServiceEnabled": true,
		"HTTPBasicAuth": basicAuth, "HTTPBasicAuth@Redfish.AllowableValues": []string{"Enabled", "Disabled"},
		"MaxPasswordLength": maxPassword, "MinPasswordLength": b.cfg.MinPasswordLength,
		"MultiFactorAuth": obj{"ClientCertificate": obj{
			"CertificateMappingAttribute": b.state.Mapping, "Certificates": link(mfaURI),
			"Enabled": auth.TLS, "RespondToUnauthenticatedClients": !b.state.Strict,
		}},
		"Oem": obj{"OpenBMC": obj{
			"@odata.id":   accountServiceURI + "#/Oem/OpenBMC",
			"@odata.type": "#OpenBMCAccountService.v1_0_0.AccountService",
			"AuthMethods": obj{
				"BasicAuth": auth.BasicAuth, "Cookie": auth.Cookie, "SessionToken": auth.SessionToken,
				"TLS": auth.TLS, "XToken": auth.XToken,
			},
		}},
	})
}

func patchAccountService(b *BMC, q *request) reply {
	const methods = "Oem/OpenBMC/AuthMethods/"
	v, r, valid := q.patch(
		field{path: "AccountLockoutThreshold", kind: intKind}, field{path: "AccountLockoutDuration", kind: intKind},
		field{path: "HTTPBasicAuth"},
		field{path: methods + "BasicAuth", kind: boolKind}, field{path: methods + "Cookie", kind: boolKind},
		field{path: methods + "SessionToken", kind: boolKind}, field{path: methods + "XToken", kind: boolKind},
		field{path: methods + "TLS", kind: boolKind},
		field{path: clientCertificate + "CertificateMappingAttribute"}, field{path: clientCertificate + "RespondToUnauthenticatedClients", kind: boolKind},
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
	if mode, given := v.text("HTTPBasicAuth"); given {
		if mode != "Enabled" && mode != "Disabled" {
			return badRequest("PropertyValueNotInList", quoted(mode), "HttpBasicAuth")
		}
		s.Auth.BasicAuth = mode == "Enabled"
	}
	for path, to := range map[string]*int{"AccountLockoutThreshold": &s.LockoutThreshold, "AccountLockoutDuration": &s.LockoutDuration} {
		if n, given := v.int(path); given {
			*to = max(n, 0)
		}
	}
	for name, to := range map[string]*bool{
		"BasicAuth": &s.Auth.BasicAuth, "Cookie": &s.Auth.Cookie, "SessionToken": &s.Auth.SessionToken, "XToken": &s.Auth.XToken,
		"TLS": &s.Auth.TLS,
	} {
		if on, given := v.bool(methods + name); given {
			*to = on
		}
	}
	q.dirty = true
	return noContent()
}

const clientCertificate = "MultiFactorAuth/ClientCertificate/"

// patchClientCertificate answers 200 with nothing, and lets only somebody who
// came with a certificate shut out those who have none.
func (b *BMC) patchClientCertificate(q *request, v values) *reply {
	done := reply{status: http.StatusOK}
	mapping, mapped := v.text(clientCertificate + "CertificateMappingAttribute")
	respond, given := v.bool(clientCertificate + "RespondToUnauthenticatedClients")
	switch {
	case mapped && mapping != string(certs.CommonName) && mapping != string(certs.UserPrincipalName):
		r := badRequest("PropertyValueNotInList", quoted(mapping), "CertificateMappingAttribute")
		return &r
	case given && !respond && !q.byCertificate:
		r := failure(http.StatusConflict, message("PropertyValueExternalConflict", clientCertificate+"RespondToUnauthenticatedClients", "false"))
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
	if !q.role.may(configureUsers) {
		names = []string{q.user}
	}
	return collection(accountsURI, "ManagerAccountCollection", "Accounts Collection", names, obj{"Description": "BMC User Accounts"})
}

func postAccount(b *BMC, q *request) reply {
	v, r, valid := q.patch(field{path: "UserName", need: true}, field{path: "Password", need: true},
		field{path: "RoleId"}, field{path: "Enabled", kind: boolKind}, field{path: "AccountTypes", kind: textsKind})
	if !valid {
		return r
	}
	name, _ := v.text("UserName")
	password, _ := v.text("Password")
	a := &account{Role: readOnly, Enabled: true}
	if id, given := v.text("RoleId"); given {
		if !knownRole(id) {
			return badRequest("PropertyValueNotInList", quoted(id), "RoleId")
		}
		a.Role = role(id)
	}
	if on, given := v.bool("Enabled"); given {
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
		return failure(http.StatusConflict, message("ResourceAlreadyExists", "ManagerAccount", "UserName", name))
	case !userName.MatchString(name):
		return badRequest("PropertyValueFormatError", quoted(name), "UserName")
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
func (b *BMC) setPassword(a *account, name, password string) (reply, bool) {
	if len(password) < b.cfg.MinPasswordLength || len(password) > maxPassword || password == name {
		return badRequest("PropertyValueFormatError", "null", "Password"), false
	}
	hash, err := hashPassword(fleet.NewSecret(password), b.cfg.Rand)
	if err != nil {
		return failure(http.StatusInternalServerError, message("InternalError")), false
	}
	a.Hash, a.Expired = hash, false
	return reply{}, true
}

func getAccount(b *BMC, q *request) reply {
	name := q.args["account"]
	a := b.state.Accounts[name]
	switch {
	case name != q.user && !q.role.may(configureUsers):
		return failure(http.StatusForbidden, message("InsufficientPrivilege"))
	case a == nil:
		return notFound("ManagerAccount", name)
	}
	types := []string{"IPMI", "Redfish", "WebUI", "ManagerConsole"}
	switch {
	case a.Types != nil:
		types = a.Types
	case name == "root":
		types = []string{"HostConsole", "IPMI", "Redfish", "WebUI"}
	}
	return ok(obj{
		"@odata.id": accountsURI + "/" + name, "@odata.type": "#ManagerAccount.v1_7_0.ManagerAccount",
		"AccountTypes": types, "Description": "User Account", "Enabled": a.Enabled, "Id": name,
		"Links":  obj{"Role": link(rolesURI + "/" + string(a.Role))},
		"Locked": b.locked(a, q.now), "Locked@Redfish.AllowableValues": []string{"false"},
		"Name": "User Account", "Password": nil, "PasswordChangeRequired": a.Expired,
		"RoleId": a.Role, "StrictAccountTypes": true, "UserName": name,
	})
}

// patchAccount lets people without the right to configure users change their
// own password and nothing else.
func patchAccount(b *BMC, q *request) reply {
	name := q.args["account"]
	fields := []field{{path: "Password"}}
	if q.role.may(configureUsers) {
		fields = append(fields, field{path: "RoleId"}, field{path: "Enabled", kind: boolKind}, field{path: "Locked", kind: boolKind})
	} else if name != q.user {
		return failure(http.StatusForbidden, message("InsufficientPrivilege"))
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
		b.endSessions(name)
	}
	*a, q.dirty = changed, true
	return noContent()
}

func (b *BMC) changeAccount(a *account, name string, v values) *reply {
	if id, given := v.text("RoleId"); given {
		if !knownRole(id) {
			r := badRequest("PropertyValueNotInList", quoted(id), "RoleId")
			return &r
		}
		a.Role = role(id)
	}
	if locked, given := v.bool("Locked"); given {
		if locked { // nobody can be locked by hand
			r := badRequest("PropertyValueNotInList", "true", "Locked")
			return &r
		}
		a.Failures = 0
	}
	if on, given := v.bool("Enabled"); given {
		a.Enabled = on
	}
	if password, given := v.text("Password"); given {
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
	b.endSessions(name)
	q.dirty = true
	return note(http.StatusOK, "AccountRemoved")
}

func getRoles(*BMC, *request) reply {
	ids := []string{string(administrator), string(operator), string(readOnly)}
	return collection(rolesURI, "RoleCollection", "Roles Collection", ids, obj{"Description": "BMC User Roles"})
}

func getRole(_ *BMC, q *request) reply {
	id := q.args["role"]
	if !knownRole(id) {
		return notFound("Role", id)
	}
	return ok(obj{
		"@odata.id": rolesURI + "/" + id, "@odata.type": "#Role.v1_2_2.Role",
		"AssignedPrivileges": role(id).privileges(), "Description": id + " User Role", "Id": id,
		"IsPredefined": true, "Name": "User Role", "OemPrivileges": []string{}, "RoleId": id,
	})
}

package bmcsim_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

const rootAccount = "/redfish/v1/AccountService/Accounts/root"

// A fresh image lets its root do nothing but change the password.
func TestPasswordChangeIsDemanded(t *testing.T) {
	_, c := start(t, bmcsim.Config{MustChange: true})
	c.login("root", bmcsim.DefaultPassword)
	refused := c.want(c.get(system), http.StatusForbidden)
	if !strings.Contains(fmt.Sprint(refused.body), "PasswordChangeRequired") || !strings.Contains(fmt.Sprint(refused.body), rootAccount) {
		t.Errorf("the refusal: %s", refused.body)
	}
	c.want(c.do(http.MethodPatch, rootAccount, `{"Password":"a-New-one-1"}`), http.StatusNoContent)
	c.login("root", "a-New-one-1")
	c.want(c.get(system), http.StatusOK)
}

func TestAccountTypes(t *testing.T) {
	_, c := start(t, bmcsim.Config{})
	c.login("root", bmcsim.DefaultPassword)
	for types, want := range map[string]int{
		`["Redfish","WebUI"]`: http.StatusCreated, `["Redfish"]`: http.StatusBadRequest, `["Root"]`: http.StatusBadRequest, `[]`: http.StatusBadRequest,
	} {
		c.want(c.do(http.MethodPost, "/redfish/v1/AccountService/Accounts",
			`{"UserName":"agent","Password":"a-New-one-1","RoleId":"Administrator","AccountTypes":`+types+`}`), want)
	}
}

func TestTheLastWayInStays(t *testing.T) {
	_, c := start(t, bmcsim.Config{NoTLSLogin: true})
	c.login("root", bmcsim.DefaultPassword)
	const methods = `{"Oem":{"OpenBMC":{"AuthMethods":`
	c.want(c.do(http.MethodPatch, "/redfish/v1/AccountService", methods+`{"TLS":true}}}}`), http.StatusBadRequest)
	c.want(c.do(http.MethodPatch, "/redfish/v1/AccountService",
		methods+`{"BasicAuth":false,"Cookie":false,"SessionToken":false,"XToken":false}}}}`), http.StatusBadRequest)
	c.want(c.do(http.MethodPatch, "/redfish/v1/AccountService", methods+`{"BasicAuth":false}}}}`), http.StatusNoContent)
}

// A certificate is judged by the BMC's own clock.
func TestACertificateAndAClockOf1970(t *testing.T) {
	_, admin := start(t, bmcsim.Config{Epoch: true})
	admin.login("root", bmcsim.DefaultPassword)
	ca := newAuthority(t) // valid since an hour ago
	admin.trust(ca)
	root := ca.client(admin, "root")
	root.token = ""
	root.want(root.get(system), http.StatusUnauthorized)
}

func TestServicesAreSwitchedOff(t *testing.T) {
	_, c := start(t, bmcsim.Config{})
	c.login("root", bmcsim.DefaultPassword)
	const network = "/redfish/v1/Managers/bmc/NetworkProtocol"
	c.want(c.do(http.MethodPatch, network, `{"SSH":{"ProtocolEnabled":false},"IPMI":{"ProtocolEnabled":true}}`), http.StatusNoContent)
	body := fmt.Sprint(c.want(c.get(network), http.StatusOK).body)
	if !strings.Contains(body, "SSH:map[Port:22 ProtocolEnabled:false]") || !strings.Contains(body, "IPMI:map[Port:623 ProtocolEnabled:true]") {
		t.Errorf("it shows %s", body)
	}
}

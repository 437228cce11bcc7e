package bmcsim_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

// FuzzRequest sends anything to a BMC as its administrator: it never panics,
// and whatever it answers as JSON is JSON.
func FuzzRequest(f *testing.F) {
	for _, seed := range [][3]string{
		{"GET", "/redfish/v1/Systems?$top=1&$skip=2&$select=Status/Health", ""},
		{"PATCH", system, `{"Boot":{"BootSourceOverrideTarget":"Pxe"},"AssetTag":"x"}`},
		{"PATCH", system + "/EthernetInterfaces/eth0", `{"IPv4StaticAddresses":[{"Address":"10.0.0.1","SubnetMask":"255.0.0.0"}]}`},
		{"PATCH", "/redfish/v1/Managers/bmc", `{"DateTime":"2030-01-01T00:00:00Z"}`},
		{"PATCH", "/redfish/v1/AccountService", `{"Oem":{"OpenBMC":{"AuthMethods":{"XToken":true}}},"AccountLockoutThreshold":-1}`},
		{"POST", reset, `{"ResetType":"PowerCycle"}`},
		{"POST", sessions, `{"UserName":"x","Password":"y"}`},
		{"GET", "/redfish/v1/Systems?only", ""},
		{"DELETE", sessions + "/x", ""},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	b, err := bmcsim.New(bmcsim.Config{HostNIC: &bmcsim.NIC{}, Drives: []bmcsim.Drive{{ID: "sda"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, uri, body string) {
		parsed, err := url.ParseRequestURI(uri)
		if err != nil || !token(method) || parsed.Host != "" {
			return
		}
		r := &http.Request{
			Method: method, URL: parsed, Header: http.Header{}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Body: http.NoBody, RemoteAddr: "127.0.0.1:1",
		}
		if body != "" {
			r = r.Clone(t.Context())
			r.Body = readCloser{strings.NewReader(body)}
		}
		r.Header.Set("Content-Type", "application/json")
		r.SetBasicAuth("root", bmcsim.DefaultPassword)
		w := httptest.NewRecorder()
		b.ServeHTTP(w, r)
		if w.Header().Get("Content-Type") == "application/json" && method != http.MethodHead && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s %s: %d %q", method, uri, w.Code, w.Body)
		}
		if w.Code == http.StatusInternalServerError {
			t.Errorf("%s %s %q: 500 %s", method, uri, body, w.Body)
		}
	})
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

// token reports whether s can be a method on the wire.
func token(s string) bool {
	return s != "" && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

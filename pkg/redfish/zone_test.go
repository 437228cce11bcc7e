package redfish_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// A BMC without any other address has a link-local one, which means something
// only with the interface that it is on.
func TestAnAddressWithAZone(t *testing.T) {
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "[::1]:0")
	if err != nil {
		t.Skipf("this machine has no IPv6: %v", err)
	}
	var host string
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host = r.Host
		if r.Method == http.MethodPost {
			w.Header().Set("X-Auth-Token", "t")
			w.WriteHeader(http.StatusCreated)
		}
		_, _ = w.Write([]byte(`{"Systems": {"@odata.id": "/redfish/v1/Systems"}}`))
	}))
	_ = srv.Listener.Close()
	srv.Listener = listener
	srv.StartTLS()
	t.Cleanup(srv.Close)

	at := netip.MustParseAddrPort(listener.Addr().String())
	zoned := netip.AddrPortFrom(at.Addr().WithZone(loopback(t)), at.Port())
	c := dialChanged(t, "https://"+listener.Addr().String(), redfish.PinOf(srv.Certificate()), rootLogin(), func(cfg *redfish.Config) {
		cfg.Address = zoned.String()
	})
	if _, err := c.Fetch(t.Context(), "/redfish/v1/"); err != nil {
		t.Fatal(err)
	}
	if host != at.String() {
		t.Errorf("the BMC was told that it is %q, want %q: a zone is ours alone", host, at)
	}
}

func loopback(t *testing.T) string {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if i.Flags&net.FlagLoopback != 0 {
			return i.Name
		}
	}
	t.Skip("this machine has no loopback interface")
	return ""
}

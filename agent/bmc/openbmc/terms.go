package openbmc

import (
	"crypto/tls"
	"crypto/x509"

	"github.com/chiba-mesh/chiba/agent/takeover"
	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// Terms are whom to believe and what to show, as the record has it. The BMC is
// known by the key it was met with or, once it has one of ours, by that key and a
// certificate for the node. Both are believed only while a certificate that we
// have signed for the second may be installed. uri is the node's in its
// certificate, client the certificate of our account, nil if there is none.
func Terms(r takeover.Record, uri string, client *tls.Certificate) redfish.Terms {
	t := redfish.Terms{Keys: []redfish.Key{key(r.Pin, r.Roots, uri)}}
	if r.Next != "" {
		t.Keys = append(t.Keys, key(r.Next, r.NextRoots, uri))
	}
	if client == nil || r.Returned || !r.AccountProven {
		return t
	}
	t.Certificate = client
	if r.Proven() {
		t.User = r.Account
	}
	return t
}

func key(pin, roots, uri string) redfish.Key {
	k := redfish.Key{Pin: pin}
	if roots != "" {
		k.Roots, k.URI = x509.NewCertPool(), uri
		k.Roots.AppendCertsFromPEM([]byte(roots))
	}
	return k
}

// Package probe asks an address who answers there: the key of its certificate, and
// what the service root tells anybody. It sends no credential, and believes nothing
// but that the peer holds the key.
package probe

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish"
)

const (
	maxBody  = 64 << 10
	maxTexts = 64 // characters of a text that is shown
	// connecting is how long a TCP connection may take: on a link it is there at
	// once, or nobody is.
	connecting = 1500 * time.Millisecond
)

// Ask makes one TLS connection to address, host:port, and reads the service root
// over it. It is an error if no TLS server answers; one that has no service root
// is an answer with a problem. The caller gives a deadline with ctx.
func Ask(ctx context.Context, address string) (discovery.Answer, error) {
	var pin atomic.Pointer[string] // a handshake can outlast the request that began it
	transport := &http.Transport{
		DialContext:       (&net.Dialer{Timeout: connecting}).DialContext,
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxBody,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12,
			// Whose key it is will be decided later, by a person or a catalogue;
			// nothing secret is sent before, and nothing is believed.
			InsecureSkipVerify: true, //nolint:gosec // see above
			VerifyConnection: func(cs tls.ConnectionState) error {
				if len(cs.PeerCertificates) == 0 {
					return errors.New("it showed no certificate")
				}
				shown := redfish.PinOf(cs.PeerCertificates[0])
				pin.Store(&shown)
				return nil
			},
		},
	}
	defer transport.CloseIdleConnections()
	root, err := read(ctx, &http.Client{Transport: transport, CheckRedirect: stay}, address)
	shown := pin.Load()
	if shown == nil {
		return discovery.Answer{}, fault.Wrap(fault.Unavailable, "ask "+address, reason(ctx, err))
	}
	a := discovery.Answer{Pin: *shown, Root: root}
	if err != nil {
		a.Problem = "no service root: " + clean(reason(ctx, err).Error())
	}
	return a, nil
}

// stay follows no redirect.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func read(ctx context.Context, client *http.Client, address string) (discovery.Root, error) {
	at := url.URL{Scheme: "https", Host: address, Path: "/redfish/v1/"}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return discovery.Root{}, err
	}
	req.Header.Set("Accept", "application/json")
	reply, err := client.Do(req)
	if err != nil {
		return discovery.Root{}, err
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		return discovery.Root{}, fmt.Errorf("it answered with HTTP %d", reply.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(reply.Body, maxBody))
	if err != nil {
		return discovery.Root{}, err
	}
	return decode(body)
}

// decode reads a service root (DSP2046). A field of the wrong type is left out.
func decode(body []byte) (discovery.Root, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(body, &raw); err != nil {
		return discovery.Root{}, errors.New("it answered with no JSON object")
	}
	text := func(key string) string {
		var s string
		if json.Unmarshal(raw[key], &s) != nil {
			return ""
		}
		return clean(s)
	}
	var links struct {
		Provider struct {
			ID string `json:"@odata.id"`
		} `json:"ManagerProvidingService"`
	}
	if json.Unmarshal(raw["Links"], &links) != nil {
		links.Provider.ID = "" // it has another type
	}
	root := discovery.Root{
		UUID: strings.ToLower(text("UUID")), Vendor: text("Vendor"), Product: text("Product"), Version: text("RedfishVersion"),
	}
	if root.Version == "" && !strings.Contains(text("@odata.type"), "ServiceRoot") {
		return discovery.Root{}, errors.New("it answered with something else")
	}
	root.Make = made(redfish.Evidence{Vendor: root.Vendor, Product: root.Product, Provider: redfish.Link(links.Provider.ID)})
	return root, nil
}

// made is the make that the evidence tells, "" if it fits none.
func made(e redfish.Evidence) string {
	if p := redfish.Detect(e); p.Name != redfish.Generic().Name {
		return p.Name
	}
	return ""
}

// reason is err without the URL around it.
func reason(ctx context.Context, err error) error {
	if inner, ok := errors.AsType[*url.Error](err); ok {
		err = inner.Err
	}
	if ctx.Err() != nil {
		return errors.New("no answer in time")
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Err != nil {
		return op.Err
	}
	return err
}

func clean(s string) string {
	r := []rune(strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "")))
	return string(r[:min(len(r), maxTexts)])
}

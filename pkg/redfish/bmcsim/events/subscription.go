package events

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/input"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
)

// Prefixes are the message registries that a listener can choose.
func Prefixes() []string { return []string{"Base", "OpenBMC", "TaskEvent", "HeartbeatEvent"} }

// NewSubscription is what v asks for, but for the ID.
func NewSubscription(v input.Values) Subscription {
	s := Subscription{Policy: Terminate, Verify: true}
	s.Destination, _ = v.Text("Destination")
	s.MessageIDs, _ = v["MessageIds"].([]string)
	s.Prefixes, _ = v["RegistryPrefixes"].([]string)
	s.Change(v)
	return s
}

// Change takes over what can be changed later too.
func (s *Subscription) Change(v input.Values) {
	if headers := headersOf(v); headers != nil {
		s.Headers = headers
	}
	if text, given := v.Text("Context"); given {
		s.Context = text
	}
	if text, given := v.Text("DeliveryRetryPolicy"); given {
		s.Policy, s.Suspended = text, false
	}
	if on, given := v.Bool("VerifyCertificate"); given {
		s.Verify = on
	}
}

func headersOf(v input.Values) (list []map[string]string) {
	sets, _ := v["HttpHeaders"].([]map[string]any)
	for _, set := range sets {
		plain := map[string]string{}
		for name, value := range set {
			plain[name], _ = value.(string)
		}
		list = append(list, plain)
	}
	return list
}

// Problem is the first value for a new subscription that OpenBMC does not take, nil if
// there is none. A plain HTTP
// destination is none of them.
func Problem(v input.Values) map[string]any {
	destination, _ := v.Text("Destination")
	protocol, _ := v.Text("Protocol")
	format, formatted := v.Text("EventFormatType")
	kind, typed := v.Text("SubscriptionType")
	prefixes, _ := v["RegistryPrefixes"].([]string)
	unknown := slices.IndexFunc(prefixes, func(p string) bool { return !slices.Contains(Prefixes(), p) })
	u, err := url.Parse(destination)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return message.New("PropertyValueFormatError", message.Quoted(destination), "Destination")
	case protocol != "Redfish":
		return message.New("PropertyValueNotInList", message.Quoted(protocol), "Protocol")
	case formatted && format != "Event" && format != "MetricReport":
		return message.New("PropertyValueNotInList", message.Quoted(format), "EventFormatType")
	case typed && kind != "RedfishEvent":
		return message.New("PropertyValueNotInList", message.Quoted(kind), "SubscriptionType")
	case unknown >= 0:
		return message.New("PropertyValueNotInList", message.Quoted(prefixes[unknown]), "RegistryPrefixes")
	}
	return PolicyProblem(v)
}

// PolicyProblem is a retry policy that OpenBMC does not know, nil if there is none.
func PolicyProblem(v input.Values) map[string]any {
	policy, given := v.Text("DeliveryRetryPolicy")
	if !given || slices.Contains([]string{Terminate, Suspend, Forever}, policy) {
		return nil
	}
	return message.New("PropertyValueNotInList", message.Quoted(policy), "DeliveryRetryPolicy")
}

// Body is the subscription as a member of the collection at uri. It shows no value of
// HttpHeaders: they may hold secrets.
func (s Subscription) Body(uri, kind string) map[string]any {
	return map[string]any{
		"@odata.id": uri + "/" + s.ID, "@odata.type": "#EventDestination.v1_14_1.EventDestination",
		"Context": s.Context, "DeliveryRetryPolicy": s.Policy, "Destination": s.Destination, "EventFormatType": "Event",
		"HeartbeatIntervalMinutes": 10, "HttpHeaders": []map[string]any{}, "Id": s.ID, "MessageIds": orEmpty(s.MessageIDs),
		"MetricReportDefinitions": []map[string]any{}, "Name": "Event Destination " + s.ID, "Protocol": "Redfish",
		"RegistryPrefixes": orEmpty(s.Prefixes), "ResourceTypes": []string{}, "SendHeartbeat": false,
		"SubscriptionType": kind, "VerifyCertificate": s.Verify,
	}
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// NewID is a number of 32 bits, as OpenBMC names subscriptions.
func NewID(random io.Reader) (string, error) {
	var n [4]byte
	if _, err := io.ReadFull(random, n[:]); err != nil {
		return "", fmt.Errorf("make an id: %w", err)
	}
	return strconv.FormatUint(uint64(binary.BigEndian.Uint32(n[:])), 10), nil
}

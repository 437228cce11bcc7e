package events

import (
	"bytes"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/input"
)

// with is a good request for a subscription with some properties changed.
func with(pairs ...any) input.Values {
	v := input.Values{"Destination": "https://agent:8443/e", "Protocol": "Redfish"}
	for i := 0; i < len(pairs); i += 2 {
		v[fmt.Sprint(pairs[i])] = pairs[i+1]
	}
	return v
}

// What is refused and with which words is as recorded; plain HTTP is taken.
func TestProblems(t *testing.T) {
	for _, tt := range []struct {
		v    input.Values
		want string
	}{
		{with(), ""},
		{with("Destination", "http://agent/e"), ""},
		{with("Destination", "agent/e"), `PropertyValueFormatError ["agent/e" Destination]`},
		{with("Destination", "ftp://agent/e"), `PropertyValueFormatError ["ftp://agent/e" Destination]`},
		{with("Destination", "https://"), `PropertyValueFormatError ["https://" Destination]`},
		{with("Destination", "https://%zz"), `PropertyValueFormatError ["https://%zz" Destination]`},
		{with("Protocol", "SNMPv2c"), `PropertyValueNotInList ["SNMPv2c" Protocol]`},
		{with("EventFormatType", "MetricReport"), ""},
		{with("EventFormatType", "X"), `PropertyValueNotInList ["X" EventFormatType]`},
		{with("SubscriptionType", "RedfishEvent"), ""},
		{with("SubscriptionType", "SSE"), `PropertyValueNotInList ["SSE" SubscriptionType]`},
		{with("RegistryPrefixes", []string{"Base", "OpenBMC", "TaskEvent", "HeartbeatEvent"}), ""},
		{with("RegistryPrefixes", []string{"Base", "ResourceEvent"}), `PropertyValueNotInList ["ResourceEvent" RegistryPrefixes]`},
		{with("DeliveryRetryPolicy", Forever), ""},
		{with("DeliveryRetryPolicy", "Never"), `PropertyValueNotInList ["Never" DeliveryRetryPolicy]`},
	} {
		got := ""
		if m := Problem(tt.v); m != nil {
			got = strings.TrimPrefix(fmt.Sprint(m["MessageId"], " ", m["MessageArgs"]), "Base.1.19.")
		}
		if got != tt.want {
			t.Errorf("%v: %s, want %s", tt.v, got, tt.want)
		}
	}
}

func TestNewSubscriptionsAndChanges(t *testing.T) {
	s := NewSubscription(with("Context", "c", "MessageIds", []string{"A"}, "RegistryPrefixes", []string{"Base"},
		"HttpHeaders", []map[string]any{{"X-Secret": "hush", "Bad": 5}}))
	want := Subscription{
		Destination: "https://agent:8443/e", Context: "c", Policy: Terminate, Prefixes: []string{"Base"}, MessageIDs: []string{"A"},
		Headers: []map[string]string{{"X-Secret": "hush", "Bad": ""}}, Verify: true,
	}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("new (-want +got):\n%s", diff)
	}
	s.Suspended = true
	s.Change(input.Values{"Context": "d", "VerifyCertificate": false})
	want.Context, want.Verify, want.Suspended = "d", false, true
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("changed (-want +got):\n%s", diff)
	}
	s.Change(input.Values{"DeliveryRetryPolicy": Suspend}) // it is tried again
	want.Policy, want.Suspended = Suspend, false
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("with another policy (-want +got):\n%s", diff)
	}
}

// Headers may hold secrets and are not shown; lists are never null.
func TestASubscriptionShowsNoHeader(t *testing.T) {
	s := NewSubscription(with("HttpHeaders", []map[string]any{{"X-Secret": "hush"}}))
	s.ID = "7"
	o := s.Body("/subs", "RedfishEvent")
	if text := fmt.Sprint(o); strings.Contains(text, "hush") || strings.Contains(text, "X-Secret") {
		t.Error("a header is shown")
	}
	if o["@odata.id"] != "/subs/7" || o["SubscriptionType"] != "RedfishEvent" || o["Protocol"] != "Redfish" {
		t.Errorf("it is %v", o)
	}
	for _, name := range []string{"MessageIds", "RegistryPrefixes"} {
		if list, isList := o[name].([]string); !isList || list == nil {
			t.Errorf("%s is %v", name, o[name])
		}
	}
}

func TestIDsAreNumbersOf32Bits(t *testing.T) {
	for want, random := range map[string][]byte{"4294967295": {255, 255, 255, 255}, "1": {0, 0, 0, 1}} {
		if got, err := NewID(bytes.NewReader(random)); err != nil || got != want {
			t.Errorf("%s %v, want %s", got, err, want)
		}
	}
	if _, err := NewID(strings.NewReader("abc")); err == nil {
		t.Error("an id is made of too little")
	}
}

func TestFilters(t *testing.T) {
	for _, tt := range []struct {
		filter string
		want   Filter
		bad    bool
	}{
		{"", Filter{}, false},
		{"MessageId eq TaskStarted", Filter{MessageIDs: []string{"TaskStarted"}}, false},
		{"(MessageId eq 'A.1.B')", Filter{MessageIDs: []string{"A.1.B"}}, false},
		{"MessageId eq A or RegistryPrefix eq Base or MessageId eq B", Filter{MessageIDs: []string{"A", "B"}, Prefixes: []string{"Base"}}, false},
		{"EventFormatType eq Event", Filter{}, false},
		{"MessageId ne A", Filter{}, true},
		{"MessageId eq A and MessageId eq B", Filter{}, true},
		{"OriginResource eq A", Filter{}, true},
		{"MessageId eq", Filter{}, true},
	} {
		got, err := ParseFilter("$filter=" + url.QueryEscape(tt.filter))
		if (err != nil) != tt.bad {
			t.Errorf("%q: %v", tt.filter, err)
		}
		if diff := cmp.Diff(tt.want, got); err == nil && diff != "" {
			t.Errorf("%q (-want +got):\n%s", tt.filter, diff)
		}
	}
	if _, err := ParseFilter("%zz"); err == nil {
		t.Error("what is no query is taken")
	}
}

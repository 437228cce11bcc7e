package redfish_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/recorded"
)

func TestDecodeToleratesWhatBMCsSend(t *testing.T) {
	type doc struct {
		Text   redfish.Text
		Number redfish.Number
		Link   redfish.Link
		Status redfish.Status
		Flag   redfish.Flag
		Count  int
	}
	tests := []struct {
		body string
		want doc
	}{
		{`{"Flag":"false"}`, doc{Flag: redfish.Flag{Set: true}}},
		{`{"Text":"a","Number":1.5,"Link":{"@odata.id":"/x"},"Flag":true}`, doc{Text: "a", Number: redfish.Number{Value: 1.5, Set: true}, Link: "/x", Flag: redfish.Flag{Value: true, Set: true}}},
		{`{"Text":512,"Number":"512","Link":"/x#/Oem"}`, doc{Text: "512", Number: redfish.Number{Value: 512, Set: true}, Link: "/x"}},
		{`{"Text":null,"Number":null,"Link":null,"Status":null,"Flag":null}`, doc{}},
		{`{"Text":{},"Number":"NaN","Link":[],"Status":"OK","Flag":"yes","Count":3}`, doc{Count: 3}},
		{`{"Number":"","Link":{"@odata.id":"https://elsewhere.example/x"}}`, doc{}},
		{`{"Link":{"@odata.id":"//elsewhere.example/x"}}`, doc{}},
		{`{"Status":{"Health":"OK","HealthRollup":"Warning","State":7}}`, doc{Status: redfish.Status{Health: "OK", HealthRollup: "Warning", State: "7"}}},
	}
	for _, test := range tests {
		var got doc
		if err := redfish.Decode([]byte(test.body), &got); err != nil {
			t.Errorf("%s: %v", test.body, err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.body, diff)
		}
	}
}

func TestAt(t *testing.T) {
	body := []byte(`{"a":[{"b/c":1},{"~":"x"}],"":2}`)
	for pointer, want := range map[string]any{
		"/a/0/b~1c": 1.0, "#/a/1/~0": "x", "/a/9": nil, "/a/-1": nil, "/a/x": nil, "/a/0/b~1c/d": nil, "/none": nil,
	} {
		if got := redfish.At(body, pointer); got != want {
			t.Errorf("At(%s) = %v, want %v", pointer, got, want)
		}
	}
	if redfish.At(body, "") == nil || redfish.At([]byte("{"), "") != nil {
		t.Error("the empty pointer is the whole document, and there is none in half of one")
	}
}

// FuzzDecode feeds the decoder what a hostile BMC may send: nothing may panic,
// and what is decoded keeps its promises.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"Text":"a","Number":"1","Link":{"@odata.id":"/x"},"Members":[{"@odata.id":"/y"}]}`, `[[[[`, `{"Number":1e999}`,
		`{"error":{"@Message.ExtendedInfo":[{"MessageId":"a.b"}]}}`, "\x00", `{"Link":"\ud800"}`,
	} {
		f.Add([]byte(seed), "/Members/0")
	}
	for _, body := range recorded.Bodies(f) {
		f.Add(body, "/Members/0")
	}
	f.Fuzz(func(t *testing.T, body []byte, pointer string) {
		var got struct {
			Text    redfish.Text
			Number  redfish.Number
			Link    redfish.Link
			Members []redfish.Link
			Root    redfish.Root
		}
		err := redfish.Decode(body, &got)
		if err == nil && !json.Valid(body) {
			t.Error("half a document was decoded")
		}
		for _, l := range append(got.Members, got.Link, got.Root.Systems) {
			if l != "" && l[0] != '/' || len(l) > 1 && l[1] == '/' {
				t.Errorf("%q is no path on the BMC", l)
			}
		}
		if n := got.Number; n.Set && n.Value-n.Value != 0 {
			t.Errorf("%v is no number", n.Value)
		}
		_ = redfish.At(body, pointer)
	})
}

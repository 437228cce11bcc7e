package params_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/params"
)

type object = map[string]any

func TestParseRefusesWhatBmcwebDoes(t *testing.T) {
	for _, test := range []struct {
		raw    string
		expand bool
		status int // 0: taken
	}{
		{"", false, 0},
		{"unknown=1&only", false, 0},
		{"$select=Name,Status/Health", false, 0},
		{"$select=", false, http.StatusBadRequest},
		{"$select=*", false, http.StatusBadRequest},
		{"$top=-1", false, http.StatusBadRequest},
		{"$top=x", false, http.StatusBadRequest},
		{"%24skip=2", false, 0},
		{"$skip=99999999999", false, http.StatusBadRequest},
		{"$filter=a", false, http.StatusNotImplemented},
		{"$what", false, http.StatusNotImplemented},
		{"$expand=.", false, http.StatusNotImplemented},
		{"$expand=.($levels=1)", true, 0},
		{"$expand=*", true, http.StatusNotImplemented},
	} {
		_, refused := params.Parse(test.raw, test.expand)
		if got := status(refused); got != test.status {
			t.Errorf("%q: %d, want %d", test.raw, got, test.status)
		}
	}
	if _, refused := params.Parse("$top=a%20b", false); refused.Key != "$top" || refused.Value != "a b" {
		t.Errorf("refused %+v", refused)
	}
}

func status(r *params.Refused) int {
	if r == nil {
		return 0
	}
	return r.Status
}

func members(n int) (list []object) {
	for i := range n {
		list = append(list, object{"@odata.id": fmt.Sprint("/m", i)})
	}
	return list
}

func TestPage(t *testing.T) {
	for _, test := range []struct {
		raw, schema string
		first, last string
		count       int
		next        any
	}{
		{"", "#LogEntryCollection.C", "/m0", "/m4", 5, nil},
		{"$top=2", "#LogEntryCollection.C", "/m0", "/m1", 2, "/c?$skip=2"},
		{"$skip=1&$top=2", "#LogEntryCollection.C", "/m1", "/m2", 2, "/c?$skip=3"},
		{"$skip=3", "#LogEntryCollection.C", "/m3", "/m4", 2, nil},
		{"$skip=9", "#LogEntryCollection.C", "", "", 0, nil},
		{"$top=2", "#SensorCollection.C", "/m0", "/m1", 2, nil},
		{"$top=0", "#SensorCollection.C", "", "", 0, nil},
	} {
		q, refused := params.Parse(test.raw, false)
		if refused != nil {
			t.Fatalf("%q: %+v", test.raw, refused)
		}
		o := object{"@odata.id": "/c", "@odata.type": test.schema, "Members": members(5)}
		q.Page(o)
		got, _ := o["Members"].([]object)
		if len(got) != test.count || o["Members@odata.nextLink"] != test.next {
			t.Errorf("%q: %d members, next %v", test.raw, len(got), o["Members@odata.nextLink"])
			continue
		}
		if test.count > 0 && (got[0]["@odata.id"] != test.first || got[test.count-1]["@odata.id"] != test.last) {
			t.Errorf("%q: %v", test.raw, got)
		}
	}
	single := object{"Name": "no collection"}
	params.All().Page(single)
	if len(single) != 1 {
		t.Errorf("a resource was changed: %v", single)
	}
}

func TestSelected(t *testing.T) {
	o := object{
		"@odata.id": "/x", "@odata.type": "#X.X", "Name": "n", "Status": object{"Health": "OK", "State": "Enabled"}, "Boot": object{"Mode": "UEFI"}, "Id": 1,
	}
	for raw, want := range map[string]object{
		"":                           o,
		"$select=Name":               {"@odata.id": "/x", "@odata.type": "#X.X", "Name": "n"},
		"$select=Status/Health":      {"@odata.id": "/x", "@odata.type": "#X.X", "Status": object{"Health": "OK"}},
		"$select=Status,Status/Fine": {"@odata.id": "/x", "@odata.type": "#X.X", "Status": object{"Health": "OK", "State": "Enabled"}},
		"$select=Name/Deep,Missing":  {"@odata.id": "/x", "@odata.type": "#X.X"},
	} {
		q, refused := params.Parse(raw, false)
		if refused != nil {
			t.Fatalf("%q: %+v", raw, refused)
		}
		if diff := cmp.Diff(want, q.Selected(o)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", raw, diff)
		}
	}
}

// FuzzParse holds that no query makes us fall, and that what is taken can be done.
func FuzzParse(f *testing.F) {
	f.Add("$select=a/b,c&$top=1&$skip=2&only&$expand=.")
	f.Fuzz(func(t *testing.T, raw string) {
		q, refused := params.Parse(raw, true)
		if refused != nil {
			return
		}
		o := object{"Members": members(3), "a": object{"b": 1}}
		q.Page(o)
		if q.Selected(o) == nil {
			t.Error("nothing is left")
		}
	})
}

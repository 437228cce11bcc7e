package input

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const asJSON = "application/json"

// told writes problems as "Key arg arg; Key arg".
func told(problems []obj) string {
	var all []string
	for _, p := range problems {
		key := strings.TrimPrefix(fmt.Sprint(p["MessageId"]), "Base.1.19.")
		args, _ := p["MessageArgs"].([]string)
		all = append(all, strings.Join(append([]string{key}, args...), " "))
	}
	return strings.Join(all, "; ")
}

// fields are some of a system's, and the one of its reset.
func fields() []Field {
	return []Field{
		{Path: "AssetTag"},
		{Path: "LocationIndicatorActive", Kind: Bool},
		{Path: "Boot/BootSourceOverrideTarget"},
		{Path: "Boot/Attempts", Kind: Int},
		{Path: "Types", Kind: Texts},
		{Path: "Addresses", Kind: Objects},
	}
}

// The answers to a PATCH are those of a recorded bmcweb.
func TestChange(t *testing.T) {
	for _, tt := range []struct{ name, body, problems, values string }{
		{"a text", `{"AssetTag":"a1"}`, "", `{"AssetTag":"a1"}`},
		{"an empty text is one", `{"AssetTag":""}`, "", `{"AssetTag":""}`},
		{
			"all kinds", `{"AssetTag":"a","LocationIndicatorActive":false,"Boot":{"Attempts":3},"Types":["x","y"],"Addresses":[{"a":1}]}`, "",
			`{"Addresses":[{"a":1}],"AssetTag":"a","Boot/Attempts":3,"LocationIndicatorActive":false,"Types":["x","y"]}`,
		},
		{"nested", `{"Boot":{"BootSourceOverrideTarget":"Pxe"}}`, "", `{"Boot/BootSourceOverrideTarget":"Pxe"}`},
		{"nested and empty", `{"Boot":{}}`, "", `{}`},
		{"no empty list", `{"Types":[]}`, "", `{"Types":[]}`},
		{"annotations are passed over", `{"@odata.id":"/x","AssetTag":"a"}`, "", `{"AssetTag":"a"}`},
		{"nothing", `{}`, "EmptyJSON", ""},
		{"a list is nothing", `[]`, "EmptyJSON", ""},
		{"a list of something is nothing", `[{"AssetTag":"a"}]`, "EmptyJSON", ""},
		{"a number is nothing", `5`, "EmptyJSON", ""},
		{"null is nothing", `null`, "EmptyJSON", ""},
		{"only annotations", `{"@odata.id":"/x","@odata.type":1}`, "NoOperation", ""},
		{"no body", ``, "MalformedJSON", ""},
		{"half a body", `{"AssetTag":`, "MalformedJSON", ""},
		{"two bodies", `{"AssetTag":"a"}{}`, "MalformedJSON", ""},
		{"a bad tail", `{"AssetTag":"a"}x`, "MalformedJSON", ""},
		{"unknown", `{"Nope":1}`, "PropertyUnknown Nope", ""},
		{"unknown beside known", `{"AssetTag":"a","Nope":1}`, "PropertyUnknown Nope", ""},
		{"unknown and nested is named alone", `{"Boot":{"Nope":1}}`, "PropertyUnknown Nope", ""},
		{"all that is wrong, in order", `{"Z":1,"AssetTag":5,"A":1}`, "PropertyUnknown A; PropertyValueTypeError 5 AssetTag; PropertyUnknown Z", ""},
		{"a number for a text", `{"AssetTag":5}`, "PropertyValueTypeError 5 AssetTag", ""},
		{"null for a text", `{"AssetTag":null}`, "PropertyValueTypeError null AssetTag", ""},
		{"a text for a truth", `{"LocationIndicatorActive":"yes"}`, `PropertyValueTypeError "yes" LocationIndicatorActive`, ""},
		{"a fraction for a number", `{"Boot":{"Attempts":1.5}}`, "PropertyValueTypeError 1.5 Boot/Attempts", ""},
		{"too large a number", `{"Boot":{"Attempts":1e40}}`, "PropertyValueTypeError 1e40 Boot/Attempts", ""},
		{"a text for a number", `{"Boot":{"Attempts":"3"}}`, `PropertyValueTypeError "3" Boot/Attempts`, ""},
		{"a text for an object", `{"Boot":"x"}`, `PropertyValueTypeError "x" Boot`, ""},
		{"a text for a list", `{"Types":"x"}`, `PropertyValueTypeError "x" Types`, ""},
		{"a number in a list", `{"Types":["x",1]}`, `PropertyValueTypeError ["x",1] Types`, ""},
		{"a text among objects", `{"Addresses":[{},"x"]}`, `PropertyValueTypeError [{},"x"] Addresses`, ""},
	} {
		v, problems := Change(asJSON, []byte(tt.body), fields()...)
		if diff := cmp.Diff(tt.problems, told(problems)); diff != "" {
			t.Errorf("%s: %s (-want +got):\n%s", tt.name, tt.body, diff)
		}
		if tt.problems != "" {
			if v != nil {
				t.Errorf("%s: %s: values %v in spite of problems", tt.name, tt.body, v)
			}
			continue
		}
		if diff := cmp.Diff(tt.values, Compact(v)); diff != "" {
			t.Errorf("%s: %s (-want +got):\n%s", tt.name, tt.body, diff)
		}
	}
}

// An action has no special word for an empty body: what is missing is missing.
func TestAction(t *testing.T) {
	need := []Field{{Path: "ResetType", Need: true}, {Path: "Uri/@odata.id", Need: true}}
	for _, tt := range []struct {
		body     string
		fields   []Field
		problems string
	}{
		{`{"ResetType":"On","Uri":{"@odata.id":"/x"}}`, need, ""},
		{`{}`, need, "PropertyMissing ResetType; PropertyMissing Uri/@odata.id"},
		{`[]`, need, "PropertyMissing ResetType; PropertyMissing Uri/@odata.id"},
		{`{"Uri":{}}`, need, "PropertyMissing ResetType; PropertyMissing Uri/@odata.id"},
		{`{"ResetType":"On"}`, need, "PropertyMissing Uri/@odata.id"},
		{`{"ResetType":1}`, need, "PropertyValueTypeError 1 ResetType"}, // what is missing comes only after what is wrong
		{`{"@odata.id":"/x"}`, nil, "PropertyUnknown @odata.id"},
		{`{}`, nil, ""},
		{`[]`, nil, ""},
		{``, nil, "MalformedJSON"},
		{`{"a":1}`, nil, "PropertyUnknown a"},
	} {
		if _, problems := Action(asJSON, []byte(tt.body), tt.fields...); told(problems) != tt.problems {
			t.Errorf("%s: %s, want %s", tt.body, told(problems), tt.problems)
		}
	}
}

// Another media type is 400 UnrecognizedRequestBody on OpenBMC, never 415.
func TestMediaTypes(t *testing.T) {
	for contentType, want := range map[string]string{
		"application/json": "", "application/json;charset=utf-8": "", "application/json ; charset=utf-8": "",
		"": "UnrecognizedRequestBody", "text/plain": "UnrecognizedRequestBody", "application/jsonx": "UnrecognizedRequestBody",
		"application/x-www-form-urlencoded": "UnrecognizedRequestBody", ";application/json": "UnrecognizedRequestBody",
	} {
		for name, read := range map[string]func(string, []byte, ...Field) (Values, []obj){"change": Change, "action": Action} {
			if _, problems := read(contentType, []byte(`{"AssetTag":"a"}`), fields()...); told(problems) != want {
				t.Errorf("%s of %q: %s, want %s", name, contentType, told(problems), want)
			}
		}
	}
}

func TestValuesAreOfTheirKindOrNotGiven(t *testing.T) {
	v, problems := Change(asJSON, []byte(`{"AssetTag":"a","LocationIndicatorActive":false,"Boot":{"Attempts":0}}`), fields()...)
	if problems != nil {
		t.Fatal(told(problems))
	}
	if text, given := v.Text("AssetTag"); text != "a" || !given {
		t.Errorf("text %q, given %v", text, given)
	}
	if on, given := v.Bool("LocationIndicatorActive"); on || !given {
		t.Errorf("truth %v, given %v", on, given)
	}
	if n, given := v.Int("Boot/Attempts"); n != 0 || !given {
		t.Errorf("number %d, given %v", n, given)
	}
	if _, given := v.Text("Boot/BootSourceOverrideTarget"); given {
		t.Error("a text that was not sent is given")
	}
	if _, given := v.Bool("AssetTag"); given {
		t.Error("a text is a truth")
	}
	if _, given := v.Int("LocationIndicatorActive"); given {
		t.Error("a truth is a number")
	}
}

func TestCompact(t *testing.T) {
	for want, v := range map[string]any{
		`{"a":[1,"x"]}`: obj{"a": []any{1, "x"}}, `"-----BEGIN\n"`: "-----BEGIN\n", "2048": 2048, "null": nil,
	} {
		if got := Compact(v); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if got := Compact(func() {}); got != "null" {
		t.Errorf("what is no JSON is %s", got)
	}
}

// Whatever is sent, it is taken or refused, never both, and what is taken is
// what was asked for.
func FuzzChange(f *testing.F) {
	for _, seed := range []string{
		`{}`, `[]`, `{"AssetTag":"a"}`, `{"Boot":{"Attempts":1}}`, `{"Types":["x",1]}`, `{"Addresses":[{"a":{"b":[]}}]}`, `{"@odata.id":1}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		v, problems := Change(asJSON, body, fields()...)
		if (v == nil) != (len(problems) > 0) {
			t.Fatalf("values %v and problems %s", v, told(problems))
		}
		if v != nil && !json.Valid(body) {
			t.Errorf("%q is no JSON and was taken", body)
		}
		for path := range v {
			known := false
			for _, field := range fields() {
				known = known || field.Path == path
			}
			if !known {
				t.Errorf("%s was not asked for", path)
			}
		}
	})
}

// A refusal is the same each time: the order of a map must not show.
func TestProblemsAreInOneOrder(t *testing.T) {
	const body = `{"f":1,"e":1,"d":1,"c":1,"Boot":{"z":1,"y":1},"b":1,"a":1}`
	const want = "PropertyUnknown y; PropertyUnknown z; PropertyUnknown a; PropertyUnknown b; " +
		"PropertyUnknown c; PropertyUnknown d; PropertyUnknown e; PropertyUnknown f"
	for range 50 {
		if _, problems := Action(asJSON, []byte(body), fields()...); told(problems) != want {
			t.Fatalf("%s, want %s", told(problems), want)
		}
	}
	missing := []Field{{Path: "B", Need: true}, {Path: "A", Need: true}} // in the order of the fields
	if _, problems := Action(asJSON, []byte("{}"), missing...); told(problems) != "PropertyMissing B; PropertyMissing A" {
		t.Errorf("%s", told(problems))
	}
}

package scan_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/redfish/recorded"
	"github.com/chiba-mesh/chiba/pkg/redfish/scan"
)

// texts are the corners of the grammar; each is also tried with every byte left
// out and with every beginning cut off.
var texts = []string{
	``, ` `, `null`, `true`, `false`, `nul`, `trueX`, `0`, `-0`, `-`, `00`, `01`, `1.`, `.5`, `1.5e`, `1e5`, `1E+5`, `1e-05`, `+1`, `0x1`, `1_0`, `NaN`,
	`""`, `"`, `"a`, `"a\"b"`, `"\u00e9"`, `"\u00G0"`, `"\x"`, "\"\x1f\"", "\"\x7f\xff\xfe\"", "\"tab\there\"", `"a long text with more than eight bytes"`,
	"\"é and \\\\ and \\n\"", `{}`, `[]`, `{"a":1}`, `{"a":1,}`, `{,}`, `[1,]`, `[,1]`, `[1 2]`, `{"a" 1}`, `{"a":}`, `{a:1}`, `{"a":1 "b":2}`, `{"a":1]`, `[1}`,
	`{"a":{"b":[1,2,{"c":null}]},"d":[]}`, "\t\r\n {\n    \"a\" : [ 1 , 2 ] \n}\n", `{}{}`, `{} x`, "\ufeff{}", "[1]\x00", "\v[]", `[[[[]]]]`, `{"a":"b"}}`,
	"{\n          \"indented\": \"by ten\",\n          \"as\": \"BMCs do\"\n}", `["\ud800","\udc00\ud800"]`,
}

func variants() [][]byte {
	var all [][]byte
	for _, text := range texts {
		for i := range text {
			all = append(all, []byte(text[:i]), []byte(text[:i]+text[i+1:]))
		}
		all = append(all, []byte(text))
	}
	return all
}

func TestAcceptsWhatEncodingJSONAccepts(t *testing.T) {
	for _, text := range variants() {
		if err := scan.Valid(text, 64); (err == nil) != json.Valid(text) {
			t.Errorf("%q: %v; encoding/json says %v", text, err, json.Valid(text))
		}
	}
}

// A loop may be left: the rest is checked all the same.
func TestLeftEarly(t *testing.T) {
	first := func(text string) (name, item string, err error) {
		s := scan.New([]byte(text), 8)
		for n := range s.Members {
			name = string(n)
			for range s.Items {
				item = string(s.Raw())
				break
			}
			break
		}
		return name, item, s.End()
	}
	if name, item, err := first(`{"a": [ {"x" : 1 } , 2], "b": {"c": [3]}} `); name != "a" || item != `{"x" : 1 }` || err != nil {
		t.Errorf("%q %q %v", name, item, err)
	}
	if _, _, err := first(`{"a":[1,2],"b":{"c":3]}`); !errors.Is(err, scan.ErrSyntax) {
		t.Errorf("behind what was left: %v", err)
	}
}

func TestThreat35DepthIsBounded(t *testing.T) {
	for _, c := range []struct {
		text  string
		depth int
		want  error
	}{
		{`1`, 0, nil},
		{`[]`, 0, scan.ErrDeep},
		{`[[],[],[]]`, 2, nil}, // beside each other is not within
		{`{"a":{"b":{}}}`, 3, nil},
		{`{"a":{"b":[[]]}}`, 3, scan.ErrDeep},
		{strings.Repeat("[", 1<<20), 64, scan.ErrDeep},
		{strings.Repeat("[", 64), 64, scan.ErrSyntax},
		{strings.Repeat(`{"":`, 1<<20), 64, scan.ErrDeep},
	} {
		if err := scan.Valid([]byte(c.text), c.depth); !errors.Is(err, c.want) {
			t.Errorf("%.20s… at most %d deep: %v; want %v", c.text, c.depth, err, c.want)
		}
	}
}

// object is what a caller does: it reads some members and leaves the rest.
func object(text string) (found []string, err error) {
	s := scan.New([]byte(text), 8)
	for name := range s.Members {
		switch string(name) {
		case "skip":
		case "in":
			for inner := range s.Members {
				found = append(found, "in."+string(inner)+"="+string(s.Raw()))
			}
		case "list":
			for range s.Items {
				found = append(found, "item="+string(s.Raw()))
			}
		default:
			found = append(found, string(name)+"="+string(s.Raw()))
		}
	}
	return found, s.End()
}

func TestMembers(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string
		err  error
	}{
		{`{"a": 1 , "b" : "x" ,"c":true}`, []string{"a=1", `b="x"`, "c=true"}, nil},
		{`{"a":1,"a":2}`, []string{"a=1", "a=2"}, nil}, // the caller keeps the last, as encoding/json does
		{`{"skip":{"a":[1,{"b":2}]},"z":null}`, []string{"z=null"}, nil},
		{`{"in":{"a":-1.5e3,"b":[]},"list":[1,"two",{"three":3}]}`, []string{"in.a=-1.5e3", "in.b=[]", "item=1", `item="two"`, `item={"three":3}`}, nil},
		{`{"in":7,"list":{"a":1},"z":0}`, []string{"z=0"}, nil}, // mistyped: none, and on
		{`{"\u0061\n":1}`, []string{"a\n=1"}, nil},
		{`{"a":1,"b":tru}`, []string{"a=1", "b="}, scan.ErrSyntax},
		{`{"a":1} 2`, []string{"a=1"}, scan.ErrSyntax},
		{`{"in":{"in":{}`, []string{"in.in={}"}, scan.ErrSyntax},
		{`[1,2]`, nil, nil},
		{`{"list":[1,2`, []string{"item=1", "item=2"}, scan.ErrSyntax},
	} {
		got, err := object(c.text)
		if diff := cmp.Diff(c.want, got); diff != "" || !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v (-want +got):\n%s", c.text, err, c.err, diff)
		}
	}
}

// FuzzScan holds the package against encoding/json: the same texts are accepted,
// and the members of an object are the same pieces of text.
func FuzzScan(f *testing.F) {
	for _, text := range texts {
		f.Add([]byte(text))
	}
	for _, body := range recorded.Bodies(f) {
		f.Add(body)
	}
	f.Add([]byte("{\"\xe1\xe1\":0}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		const depth = 64
		err := scan.Valid(text, depth)
		if errors.Is(err, scan.ErrDeep) {
			return // encoding/json goes deeper
		}
		if (err == nil) != json.Valid(text) {
			t.Fatalf("%q: %v; encoding/json says %v", text, err, json.Valid(text))
		}
		got, s := map[string]string{}, scan.New(text, depth)
		for name := range s.Members {
			got[valid(name)] = compact(s.Raw())
		}
		if (s.End() == nil) != (err == nil) {
			t.Fatalf("%q: read %v, checked %v", text, s.End(), err)
		}
		var raw map[string]json.RawMessage
		if err != nil || json.Unmarshal(text, &raw) != nil {
			return
		}
		want := map[string]string{}
		for name, value := range raw {
			want[name] = compact(value)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	})
}

// valid is a name as encoding/json gives it: with U+FFFD for each byte that is no UTF-8.
func valid(name []byte) string { return string([]rune(string(name))) }

func compact(raw []byte) string {
	var b bytes.Buffer
	_ = json.Compact(&b, raw)
	return b.String()
}

// sensors is a collection as OpenBMC sends it, indented.
func sensors() []byte {
	var doc bytes.Buffer
	one := `{"@odata.id":"/redfish/v1/Chassis/chassis/Sensors/temperature_cpu0","@odata.type":"#Sensor.v1_11_1.Sensor","Id":"temperature_cpu0","Name":"cpu0",
		"Reading":55.125,"ReadingRangeMax":127.0,"ReadingRangeMin":-128.0,"ReadingType":"Temperature","ReadingUnits":"Cel","Status":{"Health":"OK","State":"Enabled"},
		"Thresholds":{"LowerCaution":{"Reading":5.0},"LowerCritical":{"Reading":0.0},"UpperCaution":{"Reading":90.0},"UpperCritical":{"Reading":100.0}}}`
	_ = json.Indent(&doc, []byte(`{"Members":[`+strings.Repeat(one+",", 59)+one+`]}`), "", "  ")
	return doc.Bytes()
}

func BenchmarkValid(b *testing.B) {
	text := sensors()
	b.Run("scan", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		b.ReportAllocs()
		for b.Loop() {
			if err := scan.Valid(text, 64); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding-json", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			if !json.Valid(text) {
				b.Fatal("it is not valid")
			}
		}
	})
}

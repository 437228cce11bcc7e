package redfish_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/recorded"
)

func TestRepair(t *testing.T) {
	for _, test := range []struct{ name, body, want, flaw string }{
		{"what is fine", `{"a":"b"}`, `{"a":"b"}`, ""},
		{"a mark", "\xEF\xBB\xBF{}", `{}`, "byte order mark"},
		{"UTF-16, little end first", "\xff\xfe{\x00}\x00", `{}`, "UTF-16"},
		{"UTF-16, big end first, no mark", "\x00[\x00\xe9\x00]", "[é]", "UTF-16"},
		{"a tab in a text", "{\"a\":\"\t\\\"\t\"}", `{"a":"\u0009\"\u0009"}`, "control characters"},
		{"zeros at the end", "{}\x00\x00", `{}`, "zero bytes"},
		{"what is broken stays", "{,}\x00", "{,}\x00", ""},
		{"nothing", "", "", ""},
		{"one byte", "\xff", "\xff", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, flaws := redfish.Repair([]byte(test.body))
			if diff := cmp.Diff(test.want, string(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if said := strings.Join(flaws, "; "); !strings.Contains(said, test.flaw) || (said == "") != (test.flaw == "") {
				t.Errorf("flaws %q, want %q", said, test.flaw)
			}
		})
	}
}

// FuzzRepair holds that what is fine is left alone, and that a repair needs no other.
func FuzzRepair(f *testing.F) {
	f.Add([]byte("\xff\xfe{\x00}\x00"))
	f.Add([]byte("{\"a\":\"\n\"}\x00"))
	for _, body := range recorded.Bodies(f) {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, flaws := redfish.Repair(body)
		if json.Valid(body) && len(flaws) > 0 {
			t.Errorf("%q is fine and has %v", body, flaws)
		}
		if again, more := redfish.Repair(got); json.Valid(got) && (len(more) > 0 || string(again) != string(got)) {
			t.Errorf("%q needs another repair: %v", got, more)
		}
	})
}

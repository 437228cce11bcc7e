package sign_test

import (
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/trust/sign"
)

// What is wrong with a policy that a person wrote is told with its place.
func TestAPolicyThatCantBeReadSaysWhere(t *testing.T) {
	for _, c := range []struct{ name, policy, want string }{
		{"a comma too many", "{\n  \"version\": 2,\n}", "line 3, column 1: "},
		{"a text for a number", "{\n  \"notAfter\": \"2031-01-01T00:00:00Z\",\n  \"version\": \"two\"\n}", "line 3, column "},
		{"an unknown field", "{\n  \"version\": 2,\n  \"treshold\": 1\n}", "line 3, column "},
		{"two of them", "{\"version\": 2}\n\n{\"version\": 3}", "line 3, column 1: something follows it"},
		{"an end too early", "{\n  \"version\": 2", "line 2, column 15: unexpected EOF"},
	} {
		_, err := sign.ParsePolicy([]byte(c.policy))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

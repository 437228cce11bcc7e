package auth

import (
	"encoding/base64"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

func TestPasswordRules(t *testing.T) {
	for _, tt := range []struct {
		name, password string
		minimum        int
		weak           bool
	}{
		{"op", "12345678", 8, false},
		{"op", "1234567", 8, true},
		{"op", "1234567", 7, false},
		{"op", strings.Repeat("x", MaxPassword), 8, false},
		{"op", strings.Repeat("x", MaxPassword+1), 8, true},
		{"operator-1", "operator-1", 8, true},
		{"op", "", 0, false},
	} {
		a := Account{Hash: "before", Expired: true}
		err := a.SetPassword(tt.name, tt.password, tt.minimum, rand.NewChaCha8([32]byte{}))
		if errors.Is(err, ErrWeak) != tt.weak || (err != nil) != tt.weak {
			t.Errorf("%q of %s, at least %d: %v", tt.password, tt.name, tt.minimum, err)
		}
		if changed := a.Hash != "before" && !a.Expired; changed == tt.weak {
			t.Errorf("%q of %s: the account is %+v", tt.password, tt.name, a)
		}
	}
	a := Account{Hash: "before"}
	if err := a.SetPassword("op", "12345678", 8, strings.NewReader("")); err == nil || errors.Is(err, ErrWeak) || a.Hash != "before" {
		t.Errorf("without randomness: %v, %+v", err, a)
	}
}

func TestHashesAreSalted(t *testing.T) {
	random := rand.NewChaCha8([32]byte{})
	password := fleet.NewSecret("12345678")
	one, err := hash(password, random)
	if err != nil {
		t.Fatal(err)
	}
	two, err := hash(password, random)
	if err != nil {
		t.Fatal(err)
	}
	if one == two || !strings.HasPrefix(one, "$pbkdf2-sha512$") {
		t.Errorf("hashes %s and %s", one, two)
	}
	if !matches(one, password) || !matches(two, password) || matches(one, fleet.NewSecret("12345679")) {
		t.Error("a hash does not tell its password from others")
	}
	for _, broken := range []string{"", "$", "$$$", "$pbkdf2-sha512$!$x", one[:len(one)-1], one + "$"} {
		if matches(broken, password) {
			t.Errorf("%q matches", broken)
		}
	}
}

func TestUserNames(t *testing.T) {
	for name, want := range map[string]bool{
		"op": true, "_x-1": true, "A": true, "a" + strings.Repeat("b", 99): true,
		"": false, "1a": false, "-a": false, "a b": false, "a.b": false, "ä": false, "a\n": false, "a" + strings.Repeat("b", 100): false,
	} {
		if ValidName(name) != want {
			t.Errorf("%q: %v, want %v", name, !want, want)
		}
	}
}

func TestAccountTypes(t *testing.T) {
	for _, tt := range []struct {
		types   []string
		unknown string
		grouped bool
	}{
		{nil, "", false},
		{[]string{"Redfish", "WebUI"}, "", true},
		{[]string{"WebUI"}, "", false},
		{[]string{"Redfish"}, "", false},
		{[]string{"IPMI"}, "", true},
		{[]string{"IPMI", "HostConsole", "ManagerConsole", "WebUI", "Redfish"}, "", true},
		{[]string{"IPMI", "Root", "SNMP"}, "Root", true},
		{[]string{""}, "", true},
	} {
		unknown, found := UnknownType(tt.types)
		if unknown != tt.unknown || found != (tt.unknown != "" || slices.Contains(tt.types, "")) {
			t.Errorf("%v: unknown %q %v", tt.types, unknown, found)
		}
		if GroupedTypes(tt.types) != tt.grouped {
			t.Errorf("%v: grouped %v", tt.types, !tt.grouped)
		}
	}
	for _, tt := range []struct {
		name  string
		given []string
		want  []string
	}{
		{"root", nil, []string{"HostConsole", "IPMI", "Redfish", "WebUI"}},
		{"op", nil, []string{"IPMI", "Redfish", "WebUI", "ManagerConsole"}},
		{"root", []string{"IPMI"}, []string{"IPMI"}},
	} {
		a := Account{Types: tt.given}
		if diff := cmp.Diff(tt.want, a.AccountTypes(tt.name)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// The columns are Anyone to ConfigureUsers.
func TestWhatRolesMay(t *testing.T) {
	for role, want := range map[Role]string{
		Administrator: "yes yes yes yes yes yes",
		Operator:      "yes yes yes yes no no",
		ReadOnly:      "yes yes yes no no no",
		"":            "yes no no no no no",
		"NoAccess":    "yes no no no no no",
	} {
		var got []string
		for need := Anyone; need <= ConfigureUsers; need++ {
			got = append(got, map[bool]string{true: "yes", false: "no"}[role.May(need)])
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %v, want %s", role, got, want)
		}
	}
}

func TestRoleNames(t *testing.T) {
	if diff := cmp.Diff([]string{"Administrator", "Operator", "ReadOnly"}, Roles()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, name := range Roles() {
		if privileges := Role(name).Privileges(); !Known(name) || privileges[0] != "Login" {
			t.Errorf("%s has %v", name, privileges)
		}
	}
	for _, name := range []string{"", "NoAccess", "administrator"} {
		if Known(name) {
			t.Errorf("there is a role %q", name)
		}
	}
	if n := len(Administrator.Privileges()) - len(ReadOnly.Privileges()); n != 3 {
		t.Errorf("an administrator has %d more than a reader", n)
	}
}

func TestCredentials(t *testing.T) {
	for _, tt := range []struct {
		text, user, password string
		valid                bool
	}{
		{"root:0penBmc", "root", "0penBmc", true},
		{"root:a:b", "root", "a:b", true},
		{":", "", "", true},
		{"root", "root", "", false},
	} {
		user, password, valid := Basic(base64.StdEncoding.EncodeToString([]byte(tt.text)))
		if user != tt.user || password.Reveal() != tt.password || valid != tt.valid {
			t.Errorf("%q: user %q, valid %v", tt.text, user, valid)
		}
	}
	if _, _, valid := Basic("no base64!"); valid {
		t.Error("what is no base64 is valid")
	}
	for header, want := range map[string]string{
		"": "", "a=b": "", "BMCWEB-SESSION=x": "x", "a=b; BMCWEB-SESSION=x ;c=d": "x",
		"BMCWEB-SESSION=x; BMCWEB-SESSION=y": "y", "XBMCWEB-SESSION=x": "", "BMCWEB-SESSION": "", "BMCWEB-SESSION=a=b": "a=b",
	} {
		if got := CookieToken(header); got != want {
			t.Errorf("%q: token %q, want %q", header, got, want)
		}
	}
}

func FuzzCredentials(f *testing.F) {
	f.Add("cm9vdDowcGVuQm1j", "BMCWEB-SESSION=x")
	f.Add("", ";;=")
	f.Fuzz(func(t *testing.T, basic, cookie string) {
		if user, _, valid := Basic(basic); valid && strings.Contains(user, ":") {
			t.Errorf("%q gives the user %q", basic, user)
		}
		if token := CookieToken(cookie); token != "" && !strings.Contains(cookie, Cookie+"="+token) {
			t.Errorf("%q gives %q", cookie, token)
		}
	})
}

package auth

import (
	"errors"
	"io"
	"regexp"
	"slices"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// MaxPassword is the length of the longest password. It is fixed in OpenBMC,
// for IPMI's sake.
const MaxPassword = 20

// ErrWeak is the refusal of a password.
var ErrWeak = errors.New("the password does not meet the rules")

var userName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z_0-9-]{0,99}$`)

// Account is a user of the BMC.
type Account struct {
	Hash     string
	Role     Role
	Enabled  bool
	Expired  bool      // the password must be changed before anything else
	Types    []string  // AccountTypes; nil: all that a new account gets
	Failures int       // failed logins in a row
	Failed   time.Time // the last of them
}

// ValidName reports whether OpenBMC takes a user of this name.
func ValidName(name string) bool { return userName.MatchString(name) }

// SetPassword applies OpenBMC's rules to the password of the account with this
// name. ErrWeak is a refusal; any other error is one of random.
func (a *Account) SetPassword(name, password string, minimum int, random io.Reader) error {
	if len(password) < minimum || len(password) > MaxPassword || password == name {
		return ErrWeak
	}
	hashed, err := hash(fleet.NewSecret(password), random)
	if err != nil {
		return err
	}
	a.Hash, a.Expired = hashed, false
	return nil
}

// AccountTypes are what the account with this name may be used for.
func (a *Account) AccountTypes(name string) []string {
	switch {
	case a.Types != nil:
		return a.Types
	case name == "root":
		return []string{"HostConsole", "IPMI", "Redfish", "WebUI"}
	}
	return []string{"IPMI", "Redfish", "WebUI", "ManagerConsole"}
}

// UnknownType is the first of the account types that OpenBMC does not have.
func UnknownType(types []string) (unknown string, found bool) {
	all := []string{"Redfish", "WebUI", "IPMI", "ManagerConsole", "HostConsole"}
	i := slices.IndexFunc(types, func(t string) bool { return !slices.Contains(all, t) })
	if i < 0 {
		return "", false
	}
	return types[i], true
}

// GroupedTypes reports whether the types can be given: at least one, and
// Redfish and WebUI, which are one group of OpenBMC's users, together.
func GroupedTypes(types []string) bool {
	return len(types) > 0 && slices.Contains(types, "Redfish") == slices.Contains(types, "WebUI")
}

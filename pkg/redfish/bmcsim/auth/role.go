package auth

import "slices"

// Role is one of the roles of OpenBMC.
type Role string

// The roles. There is no NoAccess: an account without a right does not exist.
const (
	Administrator Role = "Administrator"
	Operator      Role = "Operator"
	ReadOnly      Role = "ReadOnly"
)

// Privilege is what a request needs.
type Privilege uint8

// The privileges, each with what has it.
const (
	Anyone              Privilege = iota // no login
	Login                                // any account
	ConfigureSelf                        // any account, for what is its own
	ConfigureComponents                  // operators
	ConfigureManager                     // administrators
	ConfigureUsers
)

// May reports whether the role has a privilege.
func (r Role) May(need Privilege) bool {
	switch {
	case need == Anyone:
		return true
	case r == Administrator:
		return true
	case r == Operator:
		return need <= ConfigureComponents
	case r == ReadOnly:
		return need <= ConfigureSelf
	}
	return false
}

// Privileges are the Redfish names of what a role may do, in bmcweb's order.
func (r Role) Privileges() []string {
	switch r {
	case Administrator:
		return []string{"Login", "ConfigureManager", "ConfigureUsers", "ConfigureSelf", "ConfigureComponents"}
	case Operator:
		return []string{"Login", "ConfigureSelf", "ConfigureComponents"}
	case ReadOnly:
	}
	return []string{"Login", "ConfigureSelf"}
}

// Known reports whether there is a role of this name.
func Known(name string) bool { return slices.Contains(Roles(), name) }

// Roles are the names of all roles, in bmcweb's order.
func Roles() []string { return []string{string(Administrator), string(Operator), string(ReadOnly)} }

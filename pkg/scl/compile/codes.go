package compile

import "github.com/chiba-mesh/chiba/pkg/scl/syntax"

// The codes of checking. They are documented in docs/scl.md and never reused.
const (
	UnknownForm     syntax.Code = "SCL0201"
	UnknownField    syntax.Code = "SCL0202"
	UnknownCommand  syntax.Code = "SCL0203"
	UnknownElement  syntax.Code = "SCL0204"
	UnknownUnit     syntax.Code = "SCL0205"
	UnknownOperator syntax.Code = "SCL0206"
	WrongCount      syntax.Code = "SCL0207"
	WrongType       syntax.Code = "SCL0208"
	WrongUnit       syntax.Code = "SCL0209"
	BadValue        syntax.Code = "SCL0210"
	Duplicate       syntax.Code = "SCL0211"
	Misplaced       syntax.Code = "SCL0212"
	BadName         syntax.Code = "SCL0213"
	NoSuchName      syntax.Code = "SCL0214"
	NotYet          syntax.Code = "SCL0215"
	BadPattern      syntax.Code = "SCL0216"
	ManyNames       syntax.Code = "SCL0217"
	Circle          syntax.Code = "SCL0218"
	OtherSite       syntax.Code = "SCL0219"

	LiteralPassword syntax.Code = "SCL0301"

	NotReading syntax.Code = "SCL0401" // a form that writes, in a script that may only read
)

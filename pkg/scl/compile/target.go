package compile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

// maxNames is the most names that the ranges of one script may make.
const maxNames = 100_000

// selectors are the forms of a target.
func selectors() []string {
	return []string{"group", "rack", "site", "where", "and", "or", "except"}
}

// looksLikeTarget reports whether n is a target rather than an option of the
// form it stands in.
func looksLikeTarget(n *syntax.Node) bool {
	switch n.Kind {
	case syntax.String:
		return true
	case syntax.Symbol:
		return n.Text == "all"
	case syntax.List:
		if len(n.List) > 0 && n.List[0].Kind != syntax.Symbol {
			return true
		}
		return slices.ContainsFunc(selectors(), n.Is)
	case syntax.Number, syntax.Bool:
	}
	return false
}

// target checks a target.
func (c *compiler) target(n *syntax.Node) scl.Target {
	t := c.selection(n)
	t.Text = c.tree.Show(n)
	t.Span = n.Span
	return t
}

func (c *compiler) selection(n *syntax.Node) scl.Target {
	switch {
	case n.Kind == syntax.Symbol && n.Text == "all":
		return scl.Target{Kind: scl.TargetAll}
	case n.Kind == syntax.Symbol:
		c.fail(WrongType, n, "expected a target and found the symbol "+c.say(n), "names stand in double quotes")
		return scl.Target{}
	case n.Kind == syntax.String:
		return c.named(n, scl.TargetName)
	case n.Kind == syntax.List && len(n.List) > 0 && n.List[0].Kind != syntax.Symbol:
		return c.targets(scl.TargetOr, n.List, n)
	case !c.headed(n, "a target", `"r07-u01", "r07-u[01-40]", "r07-*", (group "web") or "all"`):
		return scl.Target{}
	}
	switch head := n.Head(); head {
	case "group", "rack", "site":
		return c.place(n, head)
	case "where":
		if !c.args(n, 1, -1, `(where (= site.name "fra"))`) {
			return scl.Target{}
		}
		return scl.Target{Kind: scl.TargetWhere, Where: c.condition(n.Args())}
	case "and":
		return c.targets(scl.TargetAnd, n.Args(), n)
	case "or":
		return c.targets(scl.TargetOr, n.Args(), n)
	case "except":
		return c.targets(scl.TargetExcept, n.Args(), n)
	}
	c.unknown(UnknownForm, n.List[0], "selector", selectors(), nil)
	return scl.Target{}
}

// targets is a target of several.
func (c *compiler) targets(kind scl.TargetKind, of []*syntax.Node, n *syntax.Node) scl.Target {
	t := scl.Target{Kind: kind, Text: c.tree.Show(n), Span: n.Span}
	if len(of) == 0 {
		c.fail(WrongCount, n, "this selects nothing", `write the targets into it, as in (or "r07-u01" (group "web"))`)
	}
	for _, sub := range of {
		t.Of = append(t.Of, c.target(sub))
	}
	return t
}

// place is (group NAME), (rack NAME) or (site NAME).
func (c *compiler) place(n *syntax.Node, head string) scl.Target {
	if !c.args(n, 1, 1, "("+head+` "name")`) {
		return scl.Target{}
	}
	name := n.Args()[0]
	if _, ok := c.text(name, "a name"); !ok {
		return scl.Target{}
	}
	switch head {
	case "group":
		return c.named(name, scl.TargetGroup)
	case "rack":
		return c.named(name, scl.TargetRack)
	default:
		return c.named(name, scl.TargetSite)
	}
}

// named is a name, a glob or a name with ranges, of nodes or of what kind says.
func (c *compiler) named(n *syntax.Node, kind scl.TargetKind) scl.Target {
	if n.Text == "all" && kind == scl.TargetName {
		return scl.Target{Kind: scl.TargetAll}
	}
	names, err := expand(n.Text, maxNames-c.expanded)
	if err != nil {
		c.fail(err.code, n, err.text, err.help)
		return scl.Target{}
	}
	if len(names) == 1 {
		return leaf(kind, names[0])
	}
	c.expanded += len(names)
	t := scl.Target{Kind: scl.TargetOr, Of: make([]scl.Target, len(names))}
	for i, name := range names {
		t.Of[i] = leaf(kind, name)
		t.Of[i].Text = syntax.Quote(name)
		t.Of[i].Span = n.Span
	}
	return t
}

func leaf(kind scl.TargetKind, name string) scl.Target {
	if kind == scl.TargetName && strings.ContainsAny(name, "*?") {
		kind = scl.TargetGlob
	}
	return scl.Target{Kind: kind, Name: name}
}

// nameError is what is wrong with a name.
type nameError struct {
	code       syntax.Code
	text, help string
}

func badName(text string) *nameError {
	return &nameError{BadName, text, `names are like "r07-u01", with ranges "r07-u[01-40,45]", or with * and ? for any text and any character`}
}

// expand writes out the ranges of a name, at most most names.
func expand(name string, most int) ([]string, *nameError) {
	if name == "" {
		return nil, badName("an empty name")
	}
	const longest = 253 // of a host name
	if len(name) > longest {
		return nil, badName("a name longer than " + strconv.Itoa(longest) + " bytes")
	}
	names := []string{""}
	for name != "" {
		text, rest, ranged := strings.Cut(name, "[")
		if strings.Contains(text, "]") {
			return nil, badName(`this name has a "]" without a "["`)
		}
		for i := range names {
			names[i] += text
		}
		if !ranged {
			break
		}
		inside, after, closed := strings.Cut(rest, "]")
		if !closed {
			return nil, badName(`this name has a "[" without a "]"`)
		}
		alternatives, err := ranges(inside, most/len(names))
		if err != nil {
			return nil, err
		}
		names = product(names, alternatives)
		name = after
	}
	return names, nil
}

func product(heads, tails []string) []string {
	all := make([]string, 0, len(heads)*len(tails))
	for _, h := range heads {
		for _, t := range tails {
			all = append(all, h+t)
		}
	}
	return all
}

// ranges writes out "01-04,07". Numbers keep the width of the lower end.
func ranges(s string, most int) ([]string, *nameError) {
	var all []string
	for part := range strings.SplitSeq(s, ",") {
		low, high, ranged := strings.Cut(part, "-")
		if !ranged {
			high = low
		}
		from, err1 := strconv.ParseUint(low, 10, 32)
		to, err2 := strconv.ParseUint(high, 10, 32)
		if err1 != nil || err2 != nil || len(low) > 10 {
			return nil, badName("this name has a range that is not made of numbers")
		}
		if to < from {
			return nil, badName("this name has a range that ends before it begins")
		}
		if to-from >= uint64(max(0, most-len(all))) {
			return nil, &nameError{
				ManyNames, "the ranges of this script make more than 100,000 names, the most a script may have",
				`select by a glob such as "r07-*", by (rack "r07") or by "all"`,
			}
		}
		for n := from; n <= to; n++ {
			all = append(all, fmt.Sprintf("%0*d", len(low), n))
		}
	}
	return all, nil
}

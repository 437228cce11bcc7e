package compile

import (
	"strings"

	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

// ref checks an element reference: a symbol, or (redfish "URI#POINTER").
func (c *compiler) ref(n *syntax.Node) (scl.Ref, bool) {
	switch {
	case n.Is("redfish"):
		return c.redfish(n)
	case n.Kind != syntax.Symbol:
		c.fail(WrongType, n, "expected an element such as cpu.temp and found "+c.found(n), "elements stand without quotes")
		return scl.Ref{}, false
	}
	for _, name := range []string{n.Text, plain(n.Text)} {
		if e, param, ok := scl.Lookup(name); ok {
			return scl.Ref{Text: name, Element: e, Param: param}, true
		}
	}
	c.noElement(n)
	return scl.Ref{}, false
}

// redfish checks the escape hatch.
func (c *compiler) redfish(n *syntax.Node) (scl.Ref, bool) {
	const usage = `(redfish "/redfish/v1/Chassis/1/Sensors/fan0#/Reading")`
	if !c.args(n, 1, 1, usage) {
		return scl.Ref{}, false
	}
	text, ok := c.text(n.Args()[0], "a Redfish path")
	if !ok {
		return scl.Ref{}, false
	}
	const longest = 1000
	uri, pointer, pointed := strings.Cut(text, "#")
	if len(text) > longest || !pointed || !redfishPath(uri) || !strings.HasPrefix(pointer, "/") {
		c.fail(BadValue, n.Args()[0], "this is no Redfish resource with a pointer into it", "write it like "+usage)
		return scl.Ref{}, false
	}
	return scl.Ref{Text: syntax.Print(n), Element: scl.RawElement(), URI: uri, Pointer: pointer}, true
}

// redfishPath reports whether uri is a path below /redfish/v1 and stays there.
func redfishPath(uri string) bool {
	if uri != "/redfish/v1" && !strings.HasPrefix(uri, "/redfish/v1/") {
		return false
	}
	for _, r := range uri {
		if r <= ' ' || r == 0x7f || strings.ContainsRune(`?\`, r) {
			return false
		}
	}
	return !strings.Contains(uri+"/", "/../") && !strings.Contains(uri+"/", "/./")
}

// laterElements begin the names of what this version can't say of a node.
func laterElements() []string {
	return []string{"agent.", "node.maintenance", "node.connected", "node.level"}
}

// noElement reports a reference to nothing in the registry.
func (c *compiler) noElement(n *syntax.Node) {
	if c.full() {
		return
	}
	for _, prefix := range laterElements() {
		if strings.HasPrefix(n.Text, prefix) {
			c.later(n, "the element "+c.say(n))
			return
		}
	}
	namespace, _, dotted := strings.Cut(n.Text, ".")
	var all, same, namespaces []string
	for _, e := range scl.Elements() {
		all = append(all, e.Name)
		space, _, _ := strings.Cut(e.Name, ".")
		if space == namespace {
			same = append(same, e.Name)
		}
		if len(namespaces) == 0 || namespaces[len(namespaces)-1] != space {
			namespaces = append(namespaces, space)
		}
	}
	help := "elements are like cpu.temp; the namespaces are " + list(namespaces, "and")
	if near, ok := syntax.Nearest(plain(n.Text), all); ok {
		help = "did you mean " + near + "?"
	} else if len(same) > 0 {
		help = "known in " + namespace + " are " + list(same, "and")
	} else if !dotted {
		help = "elements are like cpu.temp; a text stands in double quotes"
	}
	c.fail(UnknownElement, n, "unknown element "+c.say(n), help)
}

package compile

import (
	"net/netip"
	"strconv"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

// field is how one field of a resource is checked.
type field struct {
	name string
	read func(c *compiler, value *syntax.Node) (fleet.Value, bool)
}

// resource is a form of config that has fields.
type resource struct {
	kind   scl.Resource
	named  bool // a name stands before the fields
	fields []field
	later  []string // fields of the language that this version does not carry out
}

func fieldsOf(kind scl.Resource) resource {
	switch kind {
	case scl.Power:
		return resource{kind: kind, fields: []field{{"state", enum("on", "off")}}, later: []string{"cap", "restore-policy"}}
	case scl.Boot:
		return resource{kind: kind, fields: []field{
			{"target", enum(bootTargets()...)}, {"once", readBool}, {"mode", enum("uefi", "legacy")},
		}}
	case scl.Interface:
		return resource{kind: kind, named: true, fields: []field{
			{"ip", readAddress}, {"netmask", readMask}, {"gateway", readAddress}, {"dhcp", readBool},
		}, later: []string{"dns", "vlan"}}
	case scl.Device:
		return resource{kind: kind, named: true, fields: []field{
			{"size", readSize}, {"type", enum("SSD", "HDD", "NVMe")},
		}}
	case scl.User:
		return resource{kind: kind, named: true, fields: []field{
			{"password", nil}, {"role", enum("Administrator", "Operator", "ReadOnly")},
		}}
	case scl.AssetTag, scl.Indicator:
	}
	return resource{kind: kind}
}

func bootTargets() []string { return []string{"none", "pxe", "http", "cd", "hdd", "usb", "bios"} }

func resources() []string {
	return []string{"power", "boot", "network", "storage", "bmc", "asset-tag", "indicator"}
}

func laterResources() []string {
	return []string{
		"storage-create", "storage-update", "storage-delete", "storage-action", "boot-order", "bios",
		"firmware", "os-image", "secure-boot", "label", "on-drift",
	}
}

// config checks the resources of a configuration.
func (c *compiler) config(target scl.Target, n *syntax.Node, resources []*syntax.Node) {
	s := settings{compiler: c, seen: map[string]syntax.Span{}}
	for _, r := range resources {
		s.resource(r)
	}
	c.prog.Configs = append(c.prog.Configs, scl.Config{Target: target, Settings: s.list, Span: n.Span})
}

// settings gathers the settings of one configuration.
type settings struct {
	*compiler
	list []scl.Setting
	seen map[string]syntax.Span
}

func (s *settings) add(set scl.Setting, n *syntax.Node) {
	set.Span = n.Span
	key := strconv.Quote(string(set.Resource)) + strconv.Quote(set.Name) + set.Field
	if first, ok := s.seen[key]; ok {
		s.fail(Duplicate, n, set.Path()+" is set twice", "it is also set in line "+strconv.Itoa(first.Start.Line)+"; keep one of them")
		return
	}
	s.seen[key] = n.Span
	s.list = append(s.list, set)
}

func (s *settings) resource(n *syntax.Node) {
	if !s.headed(n, "a resource", `(power (state "on"))`) {
		return
	}
	switch n.Head() {
	case "power":
		s.fields(fieldsOf(scl.Power), n)
	case "boot":
		s.fields(fieldsOf(scl.Boot), n)
	case "network":
		s.inside(n, scl.Interface, "interface", nil)
	case "storage":
		s.inside(n, scl.Device, "device", []string{"volume"})
	case "bmc":
		s.inside(n, scl.User, "user", []string{
			"network", "ntp", "dns", "syslog", "hostname", "session-timeout", "protocol",
		})
	case "asset-tag":
		s.single(n, scl.AssetTag, `(asset-tag "A-1234")`, func(v *syntax.Node) (fleet.Value, bool) {
			text, ok := s.text(v, "an asset tag")
			return fleet.Text(text), ok
		})
	case "indicator":
		s.single(n, scl.Indicator, "(indicator blink)", func(v *syntax.Node) (fleet.Value, bool) {
			return enum(lights()...)(s.compiler, v)
		})
	default:
		s.unknown(UnknownField, n.List[0], "resource", resources(), laterResources())
	}
}

func lights() []string { return []string{"on", "off", "blink"} }

// inside checks a resource that holds named ones, such as (network (interface
// "eth0" …)).
func (s *settings) inside(n *syntax.Node, kind scl.Resource, name string, later []string) {
	example := "(" + name + ` "name" …)`
	if !s.args(n, 1, -1, "("+n.Head()+" "+example+")") {
		return
	}
	if first := n.Args()[0]; kind == scl.Interface && first.Kind == syntax.String {
		s.later(first, "a network with a system's id")
		return
	}
	for _, sub := range n.Args() {
		switch {
		case !s.headed(sub, "a resource", example):
		case sub.Head() == name:
			s.fields(fieldsOf(kind), sub)
		default:
			s.unknown(UnknownField, sub.List[0], "resource of "+n.Head(), []string{name}, later)
		}
	}
}

func (s *settings) single(n *syntax.Node, kind scl.Resource, usage string, read func(*syntax.Node) (fleet.Value, bool)) {
	if !s.args(n, 1, 1, usage) {
		return
	}
	if v, ok := read(n.Args()[0]); ok {
		s.add(scl.Setting{Resource: kind, Value: v}, n)
	}
}

// fields checks a resource with its fields.
func (s *settings) fields(r resource, n *syntax.Node) {
	args := n.Args()
	name := ""
	if r.named {
		if !s.args(n, 1, -1, "("+n.Head()+` "name" …)`) {
			return
		}
		name, _ = s.text(args[0], "a name")
		args = args[1:]
	}
	if len(args) == 0 {
		s.fail(WrongCount, n, s.say(n.List[0])+" sets nothing", "write fields into it: "+list(r.names(), "and"))
	}
	for _, f := range args {
		if r.kind == scl.User && f.Kind != syntax.List {
			s.strays = append(s.strays, f)
			s.fail(WrongType, f, "expected a field and found a "+f.Kind.String(), "write it like (password …)")
			continue
		}
		if s.headed(f, "a field", "("+r.fields[0].name+" …)") {
			s.field(r, name, f)
		}
	}
}

func (s *settings) field(r resource, name string, n *syntax.Node) {
	for _, f := range r.fields {
		if f.name != n.Head() {
			continue
		}
		if !s.args(n, 1, 1, "("+f.name+" …)") {
			return
		}
		set := scl.Setting{Resource: r.kind, Name: name, Field: f.name, Value: fleet.NoValue("a secret")}
		ok := false
		if f.read == nil {
			set.Secret, ok = s.secret(n.Args()[0])
		} else {
			set.Value, ok = f.read(s.compiler, n.Args()[0])
		}
		if ok {
			s.add(set, n)
		}
		return
	}
	s.unknown(UnknownField, n.List[0], "field of "+string(r.kind), r.names(), r.later)
}

func (r resource) names() []string {
	var names []string
	for _, f := range r.fields {
		names = append(names, f.name)
	}
	return names
}

// secret checks a password: a literal, or (sealed "…").
func (c *compiler) secret(n *syntax.Node) (scl.Secret, bool) {
	switch {
	case n.Kind == syntax.String && n.Text == "":
		c.fail(BadValue, n, "an empty password", "give the user a password")
		return scl.Secret{}, false
	case n.Kind == syntax.String:
		c.warn(LiteralPassword, n, "a password stands in this script as it is",
			"it is sealed when the script is applied and shown nowhere; keep this file as private as the password")
		return scl.Secret{Literal: fleet.NewSecret(n.Text), Span: n.Span}, true
	case n.Is("secret"):
		c.later(n, "a reference to a kept password")
		return scl.Secret{}, false
	case n.Is("sealed") && len(n.List) == 2 && n.List[1].Kind == syntax.String && n.List[1].Text != "":
		return scl.Secret{Sealed: n.List[1].Text, Span: n.Span}, true
	}
	c.fail(WrongType, n, "expected a password", "write it in double quotes")
	return scl.Secret{}, false
}

func enum(choices ...string) func(*compiler, *syntax.Node) (fleet.Value, bool) {
	return func(c *compiler, n *syntax.Node) (fleet.Value, bool) {
		text, ok := c.choice(n, "value", choices)
		return fleet.Text(text), ok
	}
}

func readBool(c *compiler, n *syntax.Node) (fleet.Value, bool) {
	v, ok := c.boolean(n)
	return fleet.Bool(v), ok
}

func readSize(c *compiler, n *syntax.Node) (fleet.Value, bool) {
	num, ok := c.quantity(n, fleet.Byte)
	if ok && num <= 0 {
		c.fail(BadValue, n, "a size of nothing", "write a size like 500GB")
		return fleet.Value{}, false
	}
	return fleet.Number(num, fleet.Byte), ok
}

func readAddress(c *compiler, n *syntax.Node) (fleet.Value, bool) {
	addr, ok := c.address(n)
	return fleet.Text(addr.String()), ok
}

func readMask(c *compiler, n *syntax.Node) (fleet.Value, bool) {
	addr, ok := c.address(n)
	if !ok {
		return fleet.Value{}, false
	}
	if !isMask(addr) {
		c.fail(BadValue, n, c.say(n)+" is no netmask", "write it like 255.255.255.0, ones before zeros")
		return fleet.Value{}, false
	}
	return fleet.Text(addr.String()), true
}

func isMask(addr netip.Addr) bool {
	ones := true
	for _, b := range addr.AsSlice() {
		for bit := 7; bit >= 0; bit-- {
			one := b>>bit&1 == 1
			if one && !ones {
				return false
			}
			ones = one
		}
	}
	return true
}

func (c *compiler) address(n *syntax.Node) (netip.Addr, bool) {
	text, ok := c.text(n, "an address")
	if !ok {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		c.fail(BadValue, n, c.say(n)+" is no IP address", `write it like "192.168.1.100" or "2001:db8::7"`)
		return netip.Addr{}, false
	}
	return addr, true
}

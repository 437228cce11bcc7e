package compile

import (
	"strings"

	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

const (
	admitUsage = `(bmc-admit "sha256/…" (as "r07-u05") (serial "S123") (login "root" (password "…")))`
	assetUsage = `(asset "r07-u05" (key "sha256/…") (rack "r07"))`
)

// admitting checks (bmc-admit KEY {part}). The key is what a person vouches for: a
// name anybody could take.
func (c *compiler) admitting(cmd *scl.Command, n *syntax.Node) {
	if !c.args(n, 1, -1, admitUsage) {
		return
	}
	if key, ok := c.text(n.Args()[0], "the pin of a key"); ok {
		cmd.Args = []string{key}
	}
	seen := map[string]bool{}
	for _, part := range n.Args()[1:] {
		if !c.headed(part, "a part of bmc-admit", `(as "r07-u05")`) || c.twice(seen, part) {
			continue
		}
		switch part.Head() {
		case "as":
			cmd.Admit.As = c.plainName(part, `(as "r07-u05")`)
		case "serial":
			cmd.Admit.Serial = c.oneText(part, `(serial "S123")`)
		case "login":
			c.login(cmd, part)
		default:
			c.unknown(UnknownField, part.List[0], "part of bmc-admit", []string{"as", "serial", "login"}, nil)
		}
	}
}

// login checks (login USER (password …)).
func (c *compiler) login(cmd *scl.Command, n *syntax.Node) {
	const usage = `(login "root" (password "the one that it has"))`
	if !c.args(n, 2, 2, usage) {
		return
	}
	cmd.Admit.User, _ = c.text(n.Args()[0], "the name of an account")
	given := n.Args()[1]
	if !given.Is("password") || len(given.List) != 2 {
		c.fail(BadValue, given, c.say(given)+" does not belong to login", "write "+usage)
		return
	}
	cmd.Secret, _ = c.secret(given.List[1])
}

// twice reports a part that stood in its form before.
func (c *compiler) twice(seen map[string]bool, part *syntax.Node) bool {
	if seen[part.Head()] {
		c.fail(Duplicate, part, c.say(part.List[0])+" stands here twice", "keep one of them")
		return true
	}
	seen[part.Head()] = true
	return false
}

func (c *compiler) oneText(n *syntax.Node, usage string) string {
	if !c.args(n, 1, 1, usage) {
		return ""
	}
	text, _ := c.text(n.Args()[0], "a text")
	return text
}

// plainName is the name of one node.
func (c *compiler) plainName(n *syntax.Node, usage string) string {
	name := c.oneText(n, usage)
	if name == "all" || strings.ContainsAny(name, "*?[]/ ") {
		c.fail(BadName, n.Args()[0], "it is the name of one node", `write a name such as "r07-u05"`)
	}
	return name
}

// asset checks (asset NAME {part}).
func (c *compiler) asset(p *scl.TrustPolicy, n *syntax.Node) {
	if !c.args(n, 2, -1, assetUsage) {
		return
	}
	a := scl.Asset{Span: n.Span}
	if name, ok := c.text(n.Args()[0], "the name of a node"); ok {
		a.Node = name
		if name == "all" || strings.ContainsAny(name, "*?[]/ ") {
			c.fail(BadName, n.Args()[0], "an asset is one node", `write a name such as "r07-u05"`)
		}
		c.once("asset", name, n.Args()[0])
	}
	parts := map[string]*string{
		"key": &a.Key, "uuid": &a.UUID, "mac": &a.MAC, "serial": &a.Serial, "make": &a.Make, "rack": &a.Rack, "position": &a.Position,
	}
	seen := map[string]bool{}
	for _, part := range n.Args()[1:] {
		if !c.headed(part, "a part of an asset", `(key "sha256/…")`) || c.twice(seen, part) {
			continue
		}
		field := parts[part.Head()]
		if field == nil {
			c.unknown(UnknownField, part.List[0], "part of an asset", []string{"key", "uuid", "mac", "serial", "make", "rack", "position"}, nil)
			continue
		}
		*field = c.oneText(part, assetUsage)
	}
	a.UUID, a.MAC = strings.ToLower(a.UUID), strings.ToLower(a.MAC)
	if a.Key != "" && !strings.HasPrefix(a.Key, "sha256/") {
		c.fail(BadValue, n, "the key of an asset is the hash of a public key", `write it as chiba get bmcs --all -o wide shows it: (key "sha256/…")`)
	}
	if a.Key+a.UUID+a.MAC+a.Serial == "" {
		c.fail(WrongCount, n, "nothing tells this asset from others", "give its key, uuid, mac or serial: "+assetUsage)
	}
	p.Assets = append(p.Assets, a)
}

// personal refuses, in a rule, the commands that only people can give.
func (c *compiler) personal(commands []scl.Command) {
	for _, cmd := range commands {
		if cmd.Verb.ByPerson() {
			c.failAt(Misplaced, cmd.Span, "a rule can't do "+string(cmd.Verb)+": that is a person's word", "chiba bmc --help tells how it is given")
		}
		c.personal(cmd.Commands)
	}
}

package compile

import (
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

func verbs() []string {
	return []string{
		string(scl.DoPower), string(scl.DoReboot), string(scl.DoBoot), string(scl.DoIndicator), string(scl.DoClearLog),
		string(scl.DoBMCReset), string(scl.DoTakeOver), string(scl.DoRelease), string(scl.DoAccept),
		string(scl.DoRekey), string(scl.DoRekeyAbort), string(scl.DoAdmit), string(scl.DoRefuse), string(scl.DoForget),
		string(scl.DoLog), string(scl.DoStartImage),
		string(scl.DoWait), string(scl.DoSequence), string(scl.DoFirmware),
	}
}

func laterVerbs() []string {
	return []string{
		"install-os", "create", "mount-media", "eject-media", "collect-log", "bmc-factory-reset",
		"rotate-credentials", "maintenance", "quarantine", "notify", "redfish",
	}
}

func powerActions() []string {
	return []string{"on", "off", "graceful-off", "cycle", "reset", "graceful-restart", "nmi"}
}

// commands checks the commands of an action or a sequence.
func (c *compiler) commands(nodes []*syntax.Node) []scl.Command {
	var all []scl.Command
	for _, n := range nodes {
		if !c.headed(n, "a command", "(power cycle)") {
			continue
		}
		cmd := scl.Command{Verb: scl.Verb(n.Head()), Text: c.tree.Show(n), Span: n.Span}
		c.command(&cmd, n)
		all = append(all, cmd)
	}
	return all
}

func (c *compiler) command(cmd *scl.Command, n *syntax.Node) {
	switch cmd.Verb {
	case scl.DoPower:
		c.oneOf(cmd, n, "(power cycle)", powerActions())
	case scl.DoIndicator:
		c.oneOf(cmd, n, "(set-indicator blink)", lights())
	case scl.DoReboot:
		c.texts(cmd, n, "a system's id", 0, 1, `(reboot), or (reboot "system-id")`)
	case scl.DoLog:
		c.texts(cmd, n, "a message", 1, 1, `(log "message")`)
	case scl.DoStartImage:
		c.startImage(cmd, n)
	case scl.DoClearLog, scl.DoBMCReset, scl.DoRekeyAbort:
		c.args(n, 0, 0, "("+n.Head()+")")
	case scl.DoTakeOver:
		c.givenPassword(cmd, n, 0, `(bmc-takeover), or (bmc-takeover (password "the one that it has"))`)
	case scl.DoRelease:
		c.givenPassword(cmd, n, 1, `(bmc-release (password "the one that it gets"))`)
	case scl.DoAccept:
		c.texts(cmd, n, "the pin of a key", 1, 1, `(bmc-accept "sha256/…")`)
	case scl.DoRekey:
		c.texts(cmd, n, "a name for this change", 1, 1, `(rack-rekey "2027-03")`)
	case scl.DoAdmit:
		c.admitting(cmd, n)
	case scl.DoRefuse:
		c.texts(cmd, n, "a reason", 0, 1, `(bmc-refuse), or (bmc-refuse "reason")`)
	case scl.DoForget:
		c.args(n, 0, 0, "(bmc-forget)")
	case scl.DoBoot:
		c.boot(cmd, n)
	case scl.DoWait:
		c.wait(cmd, n)
	case scl.DoFirmware:
		c.firmware(cmd, n)
	case scl.DoSequence:
		if c.args(n, 1, -1, `(sequence (power off) (power on))`) {
			cmd.Commands = c.commands(n.Args())
		}
	default:
		c.unknown(UnknownCommand, n.List[0], "command", verbs(), laterVerbs())
	}
}

// givenPassword checks the (password …) of a command, which is there at least so
// many times.
func (c *compiler) givenPassword(cmd *scl.Command, n *syntax.Node, least int, usage string) {
	if !c.args(n, least, 1, usage) || len(n.Args()) == 0 {
		return
	}
	given := n.Args()[0]
	if !given.Is("password") || len(given.List) != 2 {
		c.fail(BadValue, given, c.say(given)+" does not belong to "+n.Head(), "write "+usage)
		return
	}
	cmd.Secret, _ = c.secret(given.List[1])
}

func (c *compiler) oneOf(cmd *scl.Command, n *syntax.Node, usage string, choices []string) {
	if !c.args(n, 1, 1, usage) {
		return
	}
	if choice, ok := c.choice(n.Args()[0], "value", choices); ok {
		cmd.Args = []string{choice}
	}
}

// texts checks least to most strings.
func (c *compiler) texts(cmd *scl.Command, n *syntax.Node, what string, least, most int, usage string) {
	if !c.args(n, least, most, usage) {
		return
	}
	for _, arg := range n.Args() {
		if text, ok := c.text(arg, what); ok {
			cmd.Args = append(cmd.Args, text)
		}
	}
}

// startImage checks (start-new-server-with-image NODE IMAGE).
func (c *compiler) startImage(cmd *scl.Command, n *syntax.Node) {
	c.texts(cmd, n, "a name", 2, 2, `(start-new-server-with-image "node" "image")`)
	if len(cmd.Args) != 2 {
		return
	}
	if node := cmd.Args[0]; node == "all" || strings.ContainsAny(node, "*?[]") {
		c.fail(BadName, n.Args()[0], "one server can be started from an image at a time", "write the name of one node")
	}
}

// boot checks (boot TARGET [(once [BOOL])]).
func (c *compiler) boot(cmd *scl.Command, n *syntax.Node) {
	const usage = "(boot pxe), or (boot pxe (once))"
	if !c.args(n, 1, 2, usage) {
		return
	}
	if target, ok := c.choice(n.Args()[0], "boot target", bootTargets()); ok {
		cmd.Args = []string{target}
	}
	if len(n.Args()) < 2 {
		return
	}
	once := n.Args()[1]
	if !once.Is("once") || len(once.List) > 2 {
		c.fail(BadValue, once, c.say(once)+" does not belong to boot", "write "+usage)
		return
	}
	cmd.Once = true
	if len(once.List) == 2 {
		cmd.Once, _ = c.boolean(once.List[1])
	}
}

// wait checks (wait PRED [(timeout TIME)]).
func (c *compiler) wait(cmd *scl.Command, n *syntax.Node) {
	cmd.Timeout = 10 * time.Minute
	if c.args(n, 1, 2, `(wait (= power.state "on") (timeout 10m))`) {
		c.until(cmd, n)
	}
}

// until reads what is waited for, and for how long.
func (c *compiler) until(cmd *scl.Command, n *syntax.Node) {
	cmd.Until = c.condition(n.Args()[:1])
	if len(n.Args()) < 2 {
		return
	}
	option := n.Args()[1]
	if !option.Is("timeout") || len(option.List) != 2 {
		c.fail(BadValue, option, c.say(option)+" does not belong to "+n.Head(), "write ("+n.Head()+` (= power.state "on") (timeout 10m))`)
		return
	}
	if d, ok := c.duration(option.List[1], time.Second); ok {
		cmd.Timeout = d
	}
}

package compile

import (
	"slices"
	"strconv"
	"time"

	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

func monitorOptions() []string {
	return []string{"every", "for", "cooldown", "limit", "severity", "when-cut-off"}
}

func defaultOptions() scl.Options {
	return scl.Options{Every: 10 * time.Second, Cooldown: 5 * time.Minute, Severity: "warning"}
}

// monitor checks the options and triggers of a monitor. Each trigger becomes a
// rule of its own; the monitor's options hold for all of them.
func (c *compiler) monitor(target scl.Target, n *syntax.Node, args []*syntax.Node) {
	options := newOptions(defaultOptions())
	var triggers []*syntax.Node
	for _, arg := range args {
		switch {
		case !c.headed(arg, "an option or a trigger", "(condition (> cpu.temp 90))"):
		case arg.Is("condition"), arg.Is("action"), arg.Is("trigger"):
			triggers = append(triggers, arg)
		default:
			c.option(options, arg)
		}
	}
	m := scl.Monitor{Target: target, Options: options.Options, Span: n.Span}
	if len(triggers) == 0 {
		c.fail(WrongCount, n.List[0], "a monitor without a condition", "write (condition …) and (action …) into it")
	}
	for len(triggers) > 0 {
		if triggers[0].Is("trigger") {
			c.trigger(m, triggers[0])
			triggers = triggers[1:]
			continue
		}
		triggers = c.rule(m, triggers)
	}
}

// trigger checks (trigger [NAME] {option} condition action).
func (c *compiler) trigger(m scl.Monitor, n *syntax.Node) {
	args := n.Args()
	if len(args) > 0 && args[0].Kind != syntax.List {
		m.Name, _ = c.text(args[0], "a trigger's name")
		args = args[1:]
	}
	options := newOptions(m.Options)
	var pair []*syntax.Node
	for _, arg := range args {
		switch {
		case !c.headed(arg, "an option, a condition or an action", "(condition (> cpu.temp 90))"):
		case arg.Is("condition"), arg.Is("action"):
			pair = append(pair, arg)
		default:
			c.option(options, arg)
		}
	}
	if len(pair) == 0 {
		c.fail(WrongCount, n.List[0], "a trigger without a condition", "write (condition …) and (action …) into it")
		return
	}
	m.Options, m.Span = options.Options, n.Span
	for _, extra := range c.rule(m, pair) {
		c.fail(Misplaced, extra, "a trigger has one condition and one action", "write another (trigger …)")
	}
}

// rule checks the condition and the action at the beginning of parts and
// returns what stands behind them.
func (c *compiler) rule(m scl.Monitor, parts []*syntax.Node) []*syntax.Node {
	if !parts[0].Is("condition") {
		c.fail(Misplaced, parts[0], "an action without a condition before it", "write (condition …) before it")
		c.commands(parts[0].Args())
		return parts[1:]
	}
	m.Condition = c.conditionForm(parts[0])
	if len(parts) < 2 || !parts[1].Is("action") {
		c.fail(WrongCount, parts[0], "a condition without an action behind it", "write (action …) behind it")
		return parts[1:]
	}
	if m.Condition != nil && m.Options.For > 0 && slices.ContainsFunc(m.Condition.Refs, scl.Ref.IsEvent) {
		c.fail(BadValue, parts[0], "an event is over at once and can't hold for "+m.Options.For.String(), "leave (for …) out, or put the event into a trigger of its own")
	}
	args := parts[1].Args()
	if len(args) > 0 && looksLikeTarget(args[0]) {
		m.On, args = c.actedOn(args[0]), args[1:]
	}
	m.Commands = c.commands(args)
	c.personal(m.Commands)
	if m.On.Kind != 0 {
		c.fitElsewhere(m.Commands)
	}
	if len(m.Commands) == 0 {
		c.fail(WrongCount, parts[1], "an action without a command", `write (action (log "it is hot"))`)
	}
	if m.Name == "" {
		m.Name = c.freeName()
	}
	c.once("monitor", m.Name, parts[0])
	c.prog.Monitors = append(c.prog.Monitors, m)
	return parts[2:]
}

// freeName is the name of an unnamed monitor: m1, m2, … by its place among all
// of the script, unless a person took that name.
func (c *compiler) freeName() string {
	for c.numbered = max(c.numbered, len(c.prog.Monitors)) + 1; ; c.numbered++ {
		name := "m" + strconv.Itoa(c.numbered)
		if _, taken := c.names["monitor "+name]; !taken {
			return name
		}
	}
}

func (c *compiler) conditionForm(n *syntax.Node) *scl.Condition {
	if !c.args(n, 1, -1, "(condition (> cpu.temp 90))") {
		return nil
	}
	return (&checker{compiler: c, index: map[string]int{}, heard: true}).condition(n.Args())
}

// optionSet is the options of one form, each at most once.
type optionSet struct {
	scl.Options
	seen map[string]bool
}

func newOptions(from scl.Options) *optionSet { return &optionSet{from, map[string]bool{}} }

// option checks an option of a monitor or trigger.
func (c *compiler) option(o *optionSet, n *syntax.Node) {
	if o.seen[n.Head()] {
		c.fail(Duplicate, n, c.say(n.List[0])+" stands here twice", "keep one of them")
		return
	}
	o.seen[n.Head()] = true
	switch n.Head() {
	case "every":
		c.durationOption(&o.Every, n, time.Second)
	case "for":
		c.durationOption(&o.For, n, 0)
	case "cooldown":
		c.durationOption(&o.Cooldown, n, 0)
	case "limit":
		c.limit(&o.Limit, n)
	case "severity":
		if c.args(n, 1, 1, "(severity warning)") {
			o.Severity, _ = c.choice(n.Args()[0], "severity", []string{"info", "warning", "critical"})
		}
	case "when-cut-off":
		c.cutOff(&o.CutOff, n)
	default:
		c.unknown(UnknownField, n.List[0], "option of a monitor", monitorOptions(), nil)
	}
}

func (c *compiler) durationOption(d *time.Duration, n *syntax.Node, least time.Duration) {
	if !c.args(n, 1, 1, "("+n.Head()+" 10s)") {
		return
	}
	if value, ok := c.duration(n.Args()[0], least); ok {
		*d = value
	}
}

// limit checks (limit COUNT (in TIME) (per rack)).
func (c *compiler) limit(l *scl.Limit, n *syntax.Node) {
	const usage = "(limit 3 (in 1h) (per rack))"
	if !c.args(n, 2, 3, usage) {
		return
	}
	args := n.Args()
	l.Count = c.wholeNumber(args[0])
	for _, arg := range args[1:] {
		switch {
		case arg.Is("in") && len(arg.List) == 2:
			l.Window, _ = c.duration(arg.List[1], time.Second)
		case arg.Is("per") && len(arg.List) == 2:
			_, _ = c.choice(arg.List[1], "range of a limit", []string{"rack"})
		default:
			c.fail(BadValue, arg, c.say(arg)+" does not belong into a limit", "write "+usage)
			return
		}
	}
	if !args[1].Is("in") && (len(args) < 3 || !args[2].Is("in")) {
		c.fail(WrongCount, n, "a limit without a time", "write "+usage)
	}
}

// wholeNumber reads one from 1 to a million, 0 if it is none.
func (c *compiler) wholeNumber(n *syntax.Node) int {
	const most = 1_000_000
	if n.Kind != syntax.Number || n.Unit != "" || n.Num < 1 || n.Num > most || n.Num != float64(int(n.Num)) {
		c.fail(BadValue, n, "expected a count and found "+c.found(n), "write a whole number from 1 to a million")
		return 0
	}
	return int(n.Num)
}

// cutOff checks (when-cut-off run), (when-cut-off hold) and (when-cut-off
// (run-for TIME)).
func (c *compiler) cutOff(o *scl.CutOff, n *syntax.Node) {
	const usage = "(when-cut-off run), (when-cut-off hold) or (when-cut-off (run-for 24h))"
	if !c.args(n, 1, 1, usage) {
		return
	}
	*o = scl.CutOff{}
	arg := n.Args()[0]
	if arg.Kind == syntax.List {
		if !arg.Is("run-for") || len(arg.List) != 2 {
			c.fail(BadValue, arg, "unknown choice "+c.say(arg), "write "+usage)
			return
		}
		o.RunFor, _ = c.duration(arg.List[1], time.Second)
		return
	}
	choice, _ := c.choice(arg, "choice", []string{"run", "hold"})
	o.Hold = choice == "hold"
}

// Package scl is the vocabulary of a checked SCL program: what a script asks
// for, as plain data. Its children implement it: syntax reads text into a tree
// with spans, compile turns the tree into a Program or into diagnostics.
//
// A Program is immutable once compiled and safe for concurrent use.
package scl

import (
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

// Program is a checked script.
type Program struct {
	File string

	// Standing forms stay in force until the script is replaced or removed.
	Groups   []Group
	Configs  []Config
	Monitors []Monitor
	Trust    []TrustPolicy

	// Steps are the one-shot forms in the order of the source.
	Steps []Step

	// Rollout says in which waves all of it is done; nil: at once.
	Rollout *Rollout
}

// Standing reports whether the program leaves anything in force.
func (p *Program) Standing() bool {
	return len(p.Groups)+len(p.Configs)+len(p.Monitors)+len(p.Trust) > 0
}

// Group is a kept, named selection of nodes.
type Group struct {
	Name    string
	Members Target // the union of the form's targets
	Span    syntax.Span
}

// Config is what a selection of nodes shall be.
type Config struct {
	Target   Target
	Settings []Setting
	Span     syntax.Span
}

// Resource is the kind of thing a Setting configures.
type Resource string

// The resources of config.
const (
	Power     Resource = "power"             // fields state
	Boot      Resource = "boot"              // fields target, once, mode
	Interface Resource = "network.interface" // the host's; fields ip, netmask, gateway, dhcp
	Device    Resource = "storage.device"    // hardware that must be there: fields size, type
	User      Resource = "bmc.user"          // fields password, role
	AssetTag  Resource = "asset-tag"         // field ""
	Indicator Resource = "indicator"         // field ""
)

// Setting is one field of a standing configuration.
type Setting struct {
	Resource Resource
	Name     string // the interface, device or user; else empty
	Field    string
	Value    fleet.Value // unknown for a secret field
	Secret   Secret      // for a secret field
	Span     syntax.Span
}

// Path names the field to a person: "power.state", "network.eth0.ip",
// "bmc.user.root.password", "asset-tag".
func (s Setting) Path() string {
	path := string(s.Resource)
	switch s.Resource {
	case Interface:
		path = "network." + s.Name
	case Device:
		path = "storage." + s.Name
	case User:
		path = "bmc.user." + s.Name
	case Power, Boot, AssetTag, Indicator:
	}
	if s.Field != "" {
		path += "." + s.Field
	}
	return path
}

// Secret is a secret value of a script: a literal as a person typed it, or the
// sealed form in which it travels and rests, `(sealed "…")`.
type Secret struct {
	Literal fleet.Secret
	Sealed  string
	Span    syntax.Span // of the whole value: the string, or the sealed form
	// Use says what it is for, once its script has a name: see Program.Bind.
	Use string
}

// None reports whether there is no secret at all.
func (s Secret) None() bool { return s.Literal.Empty() && s.Sealed == "" }

// Monitor is a rule: what is watched on each node of Target, and what is done
// on the rising edge of Condition.
type Monitor struct {
	Name      string // from the form, else "m1", "m2", … in the order of the source
	Target    Target
	Condition *Condition
	// On are the nodes that the commands are done on, each by its name, at most
	// MostActedOn; its zero value is the node on which the condition became true.
	On       Target
	Commands []Command
	Options  Options
	Span     syntax.Span
}

// MostActedOn is how many nodes the action of one rule names.
const MostActedOn = 64

// ActsOn are the names of the nodes that the commands are done on; none: the node
// on which the condition became true.
func (m Monitor) ActsOn() []fleet.NodeName {
	var names []fleet.NodeName
	for _, leaf := range m.On.Names() {
		names = append(names, fleet.NodeName(leaf.Name))
	}
	return names
}

// Options of a monitor; the compiler fills in the defaults.
type Options struct {
	Every    time.Duration // sampling period, default 10 s
	For      time.Duration // how long the condition must hold, default 0
	Cooldown time.Duration // rest after a firing, default 5 min
	Severity string        // "info", "warning" (default), "critical"
	Limit    Limit         // zero: none
	CutOff   CutOff        // what to do while no coordinator is reached
}

// Limit is a rule's blast radius: at most Count firings in Window per rack.
type Limit struct {
	Count  int
	Window time.Duration
}

// CutOff says what a rule does while its agent reaches no coordinator.
type CutOff struct {
	Hold   bool          // true: it does not act at all
	RunFor time.Duration // > 0: it acts for this long, then holds
}

// Step is a one-shot form; exactly one of its parts is set.
type Step struct {
	Target  Target
	Action  []Command // a sequence: the first failure stops that node
	Show    *Show
	Dump    *Dump
	Refresh bool
	Text    string // canonical text of the form, secrets redacted
	Span    syntax.Span
}

// Show asks for elements; no Refs means the summary.
type Show struct{ Refs []Ref }

// InventoryFormat is the format of a Dump that tells what a server is made of.
const InventoryFormat = "inventory"

// TrustFormat is the format of a Dump that tells how far a node's BMC is believed
// and why. No BMC is asked for it.
const TrustFormat = "trust"

// Dump asks for the whole of what a BMC says, as "json" or "xml", or for the
// typed InventoryFormat or TrustFormat, which are JSON too.
type Dump struct{ Format string }

// Verb is a command of an action.
type Verb string

// The commands of action.
const (
	DoPower      Verb = "power"         // Args: "on", "off", "graceful-off", "cycle", "reset", "graceful-restart", "nmi"
	DoReboot     Verb = "reboot"        // Args: none, or the system id
	DoBoot       Verb = "boot"          // Args: target; Once
	DoIndicator  Verb = "set-indicator" // Args: "on", "off", "blink"
	DoClearLog   Verb = "clear-log"
	DoBMCReset   Verb = "bmc-reset"
	DoTakeOver   Verb = "bmc-takeover" // Secret: the password to log in with, if it is not known
	DoRelease    Verb = "bmc-release"  // Secret: the password to give the BMC back with
	DoAccept     Verb = "bmc-accept"   // Args: the pin of the BMC's new key
	DoRekey      Verb = "rack-rekey"   // Args: the name of the change, which is made once
	DoRekeyAbort Verb = "rack-rekey-abort"
	DoAdmit      Verb = "bmc-admit"                   // Args: the pin of its key; Admit; Secret: the password to log in with
	DoRefuse     Verb = "bmc-refuse"                  // Args: none, or the reason
	DoForget     Verb = "bmc-forget"                  // take back what bmc-admit or bmc-refuse has said
	DoLog        Verb = "log"                         // Args: message; touches no BMC
	DoStartImage Verb = "start-new-server-with-image" // Args: node, image
	DoWait       Verb = "wait"                        // Until, Timeout
	DoSequence   Verb = "sequence"                    // Commands
	DoFirmware   Verb = "update-firmware"             // Firmware, Timeout
)

// Command is one thing to do on one node.
type Command struct {
	Verb     Verb
	Args     []string
	Once     bool // of boot
	Until    *Condition
	Timeout  time.Duration // of wait, default 10 min, and of update-firmware, default 1 h
	Commands []Command     // of sequence
	Secret   Secret        // of bmc-takeover, bmc-release and bmc-admit
	Admit    Admit         // of bmc-admit
	Firmware *Firmware     // of update-firmware
	Text     string        // canonical text, secrets redacted
	Span     syntax.Span
}

// Flat is commands with the sequences in them laid open.
func Flat(commands []Command) []Command {
	var all []Command
	for _, c := range commands {
		if c.Verb == DoSequence {
			all = append(all, Flat(c.Commands)...)
			continue
		}
		all = append(all, c)
	}
	return all
}

// Admit lets a BMC in that was found. What is "" is not said.
type Admit struct {
	As     string // the name that it gets
	Serial string // that the server must tell
	User   string // to log in as, with the Secret of the command
}

// Elsewhere is the node that a command itself names to be done on, "" if it names none.
func (c Command) Elsewhere() fleet.NodeName {
	if c.Verb != DoStartImage || len(c.Args) == 0 {
		return ""
	}
	return fleet.NodeName(c.Args[0])
}

// ByPerson reports whether a command is a person's word about a BMC, which no rule
// can give.
func (v Verb) ByPerson() bool {
	return v == DoAdmit || v == DoRefuse || v == DoForget
}

// Firmware is one update of one firmware of a node.
type Firmware struct {
	ID string // as in firmware.ID.version: "bmc", "bios", or an id or name of the BMC's inventory
	// Image is where the image is: an http or https URL, a path below the agent's
	// directory of artifacts, or "sha256:" and the digest of a file there.
	Image   string
	Digest  string // "sha256:" and 64 hex digits, which the image must have; "": not known
	Version string // that shall run afterwards; "": another one than before
	OnReset bool   // take effect at the next reset, not now
}

// Remote reports whether the image is fetched from elsewhere.
func (f Firmware) Remote() bool {
	return strings.HasPrefix(f.Image, "https://") || strings.HasPrefix(f.Image, "http://")
}

// Ref is a checked element reference.
type Ref struct {
	Text    string   // as written, for example "storage.volume.v0.state"
	Element *Element // never nil
	Param   string   // the free item of the reference, for example "v0"
	// URI and Pointer are set for the escape hatch (redfish "URI#POINTER"); its
	// Element is RawElement.
	URI, Pointer string
}

// Type is the type of an element or an expression.
type Type uint8

// The types.
const (
	NumberType Type = iota + 1
	TextType
	BoolType
)

// Reduction says how the instances of an element become one value.
type Reduction uint8

// The reductions.
const (
	First Reduction = iota // there is one instance, or the first speaks for all
	Max
	Min
	Sum
	Worst // of health: Critical before Warning before OK
)

// Element is a row of the registry of what can be read.
type Element struct {
	Name    string // "cpu.temp"; "*" stands for the free item: "storage.volume.*.state"
	Type    Type
	Unit    fleet.Unit
	Reduce  Reduction
	Values  []string // of a text that is one of few; compared without regard to case
	Sources []string // Redfish sources in order of preference, for the manual
	Doc     string   // one line
}

// Truth is the value of a predicate.
type Truth uint8

// The three truth values. The zero Truth is Unknown.
const (
	Unknown Truth = iota
	False
	True
)

// Slot is what is known of one element on one node when a condition is
// evaluated.
type Slot struct {
	Value fleet.Value   // the default reduction
	All   []fleet.Value // every instance
}

// Condition is a checked predicate over element references.
type Condition struct {
	Refs []Ref  // slot i of Eval is what Refs[i] reads as
	Text string // canonical text
	// Test evaluates the predicate; len(slots) == len(Refs). It has no state and
	// is safe for concurrent use. It allocates nothing, but for what package
	// regexp may need now and then where the predicate matches texts.
	Test func(slots []Slot) Truth
}

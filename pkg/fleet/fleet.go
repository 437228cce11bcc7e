// Package fleet holds the nouns that every part of Chiba shares: names, values
// with units, readings, changes and results. It is pure: it touches no
// network, disk, clock or logger, and every type in it is a plain value that is
// safe to copy and to read from several goroutines.
package fleet

import "time"

// NodeName is the name of a server in the fleet, unique over all sites.
type NodeName string

// RackName is the name of what one agent, or an active/standby pair, serves.
type RackName string

// SiteName is the name of the racks behind one WAN link.
type SiteName string

// AgentName is the name of an edge agent; it is the name in its certificate.
type AgentName string

// ScriptName is the name under which a script stays in force.
type ScriptName string

// RunID names one execution of a script: R1, R2, … in the order of commit.
type RunID string

// Reading is one element of one node at one time.
type Reading struct {
	Node NodeName
	// Ref is the element reference as written, for example "cpu.temp".
	Ref string
	// Value is the reduction of all instances (the registry names it), or
	// unknown with a reason.
	Value Value
	// Instances are the single values behind Value, in the order of the BMC.
	Instances []Instance
	// Source is the Redfish path the value was read from, empty if unknown.
	Source string
	At     time.Time
}

// Instance is one of several values behind a reading, for example one CPU.
type Instance struct {
	Name  string
	Value Value
}

// Verdict says how a field of a standing configuration compares with reality.
type Verdict string

// The verdicts of a comparison.
const (
	Same        Verdict = "same"
	Differs     Verdict = "differs"
	Unsupported Verdict = "unsupported" // the BMC has no such resource or field
	Unreadable  Verdict = "unreadable"  // it could not be compared: see Change.Note
	Barred      Verdict = "refused"     // it differs, and the BMC is not trusted with it: see Change.Note
)

// Change is one field of a plan: what is there and what the script wants.
// Before and After never hold a secret; a secret field shows "(secret)".
type Change struct {
	Node    NodeName
	Path    string // "power.state", "network.eth0.ip", "bmc.user.root.password"
	Before  string
	After   string
	Verdict Verdict
	Note    string // the reason when Unsupported or Unreadable, else a remark
}

// Status says what became of one step on one node.
type Status string

// The states a step can end in.
const (
	Confirmed   Status = "confirmed"   // done, and read back from the BMC
	Unchanged   Status = "unchanged"   // nothing was to be done
	Attempted   Status = "attempted"   // accepted by the BMC, its effect can't be read back
	Failed      Status = "failed"      // refused or not reached; see Error
	Unknown     Status = "unknown"     // begun, and nobody can tell how it ended
	Skipped     Status = "skipped"     // not tried; see Error for the reason
	NotProvided Status = "unsupported" // the BMC has no such resource or field
)

// OK reports whether the status counts as success.
func (s Status) OK() bool { return s == Confirmed || s == Unchanged || s == Attempted }

// Result is the outcome of one step on one node. It is made once, recorded
// once, and holds no secret.
type Result struct {
	Run     RunID      // empty for what a rule did
	Script  ScriptName // empty for a query that belongs to no script
	Rule    string     // the monitor's name, if a rule did it
	Node    NodeName
	Step    string // canonical text of the form or command, secrets redacted
	Path    string // the field, for steps of config
	Before  string
	After   string
	Status  Status
	Kind    string // fault.Kind as text when not OK
	Error   string
	Hint    string
	Started time.Time
	Took    time.Duration

	By string // the agent that did it, if not the one that tells of it

	Attempts int
	Readings []Reading // of a show
	Body     []byte    // of a dump, at most MaxBody bytes
}

// MaxBody is the most bytes a Result carries in Body (1 MiB).
const MaxBody = 1 << 20

// NodeState says whether an agent can work with a node's BMC.
type NodeState string

// The states of a node as its agent sees it.
const (
	Ready       NodeState = "ready"
	Unreachable NodeState = "unreachable" // no answer; see Reason
	Untrusted   NodeState = "untrusted"   // its certificate is not the expected one
	Refused     NodeState = "refused"     // it does not accept our login
	Stranger    NodeState = "stranger"    // it was found and is none of the fleet
)

// Node is what the mesh knows of one server.
type Node struct {
	Name    NodeName
	Rack    RackName
	Site    SiteName
	BMC     string // hash of the BMC's evidence, its identity
	Address string // where the BMC was last found, host:port
	Found   string // how: "mdns", "static"
	Vendor  string
	Model   string
	Serial  string
	Power   string
	Health  string
	State   NodeState
	Reason  string // why it is not ready
	Seen    time.Time
	Labels  map[string]string
	Trust   BMCTrust

	Admission Admission

	// As of the last inventory, "" before the first one.
	Firmware string // of the BMC
	BIOS     string // of the server
}

// HardwareNews is what an inventory of a node found other than the one before:
// what was put in, taken out or exchanged, and what runs another firmware.
type HardwareNews struct {
	Node    NodeName
	At      time.Time        // of the later inventory
	Changes []HardwareChange // at most MaxHardwareChanges
	More    int              // changes that are not listed
}

// MaxHardwareChanges is how many one HardwareNews lists. A server that was
// exchanged has more; the inventory tells them.
const MaxHardwareChanges = 64

// HardwareChange is one thing that is other than before.
type HardwareChange struct {
	What          string // "added", "removed", "changed"
	Kind          string // "drive", "memory", "firmware"
	Path          string // URI of the part; of a fact that changed, with '#' and its name
	Before, After string // of a part, what names it best; "" if unknown
}

// Firing is one rising edge of a rule on one node, with what was done.
type Firing struct {
	Script    ScriptName
	Rule      string
	Node      NodeName
	Condition string    // canonical text
	Readings  []Reading // the values that made it true
	At        time.Time
	CutOff    bool // the agent reached no coordinator when it fired
	Results   []Result
	Held      string // why nothing was done (cooldown, limit, hold), else empty
	// Asked is set if the rule fired in another rack, whose agent had this one act on
	// Node; Results are then of that, and there are no Readings.
	Asked Asked
}

// Asked is who had an agent act on a node of its rack, and why. Its zero value is
// nobody.
type Asked struct {
	Rack  RackName
	Agent AgentName
	Node  NodeName  // on which the rule fired
	At    time.Time // when it did, by the clock of its agent
}

// Package obs names the keys of structured logs, so that a search for one key
// finds every line about it. Messages are constant; values ride in keys.
package obs

// The keys of log lines.
const (
	Node   = "node"
	Rack   = "rack"
	Agent  = "agent"
	Script = "script"
	Run    = "run"
	Rule   = "rule"
	BMC    = "bmc"
	Addr   = "addr"
	Path   = "path"
	Err    = "err"
	Kind   = "kind"
	Took   = "took"
	Step   = "step"
	Seq    = "seq"
	Epoch  = "epoch"
	Count  = "count"
	Peer   = "peer"
	Dir    = "dir"
	Reason = "reason"
)

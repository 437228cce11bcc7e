// Package wire converts between the nouns of pkg/fleet and their messages in
// pkg/wire/pb: ToX makes the message of an X, FromX makes the X of a message.
// FromX(ToX(x)) is x, but for what a message can't hold: times are kept in
// whole milliseconds of UTC, durations in whole microseconds, and text that is
// not UTF-8 (a BMC may say anything) has U+FFFD in its place, because protobuf
// refuses to encode it. An empty list or map comes back as nil.
//
// All functions are pure. The results share no memory with the arguments,
// except for Result.Body, which neither side may write to.
package wire

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// ToTime is t in milliseconds since 1970, 0 for the zero time.
func ToTime(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// FromTime is the time ms milliseconds after 1970 in UTC, the zero time for 0.
func FromTime(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// ToValue is the message of v.
func ToValue(v fleet.Value) *pb.Value {
	switch v.Kind() {
	case fleet.KindNumber:
		n, _ := v.Number()
		return &pb.Value{Kind: &pb.Value_Number{Number: n}, Unit: v.Unit().String()}
	case fleet.KindText:
		s, _ := v.Text()
		return &pb.Value{Kind: &pb.Value_Text{Text: utf8(s)}}
	case fleet.KindBool:
		b, _ := v.Bool()
		return &pb.Value{Kind: &pb.Value_Flag{Flag: b}}
	default:
		return &pb.Value{Kind: &pb.Value_Unknown{Unknown: utf8(v.Why())}}
	}
}

// FromValue is the value of m. What this version can't read, such as a number
// in a unit it does not know, is unknown and says so.
func FromValue(m *pb.Value) fleet.Value {
	switch k := m.GetKind().(type) {
	case *pb.Value_Number:
		u, ok := fleet.ParseUnit(m.GetUnit())
		if !ok {
			return fleet.NoValue("its unit " + strconv.Quote(m.GetUnit()) + " is not known to this version")
		}
		return fleet.Number(k.Number, u)
	case *pb.Value_Text:
		return fleet.Text(k.Text)
	case *pb.Value_Flag:
		return fleet.Bool(k.Flag)
	case *pb.Value_Unknown:
		return fleet.NoValue(k.Unknown)
	default:
		return fleet.NoValue("its kind is not known to this version")
	}
}

// ToReading is the message of r.
func ToReading(r fleet.Reading) *pb.Reading {
	m := &pb.Reading{
		Node:     utf8(string(r.Node)),
		Ref:      utf8(r.Ref),
		Value:    ToValue(r.Value),
		Source:   utf8(r.Source),
		AtUnixMs: ToTime(r.At),
	}
	for _, i := range r.Instances {
		m.Instances = append(m.Instances, &pb.Instance{Name: utf8(i.Name), Value: ToValue(i.Value)})
	}
	return m
}

// FromReading is the reading of m.
func FromReading(m *pb.Reading) fleet.Reading {
	r := fleet.Reading{
		Node:   fleet.NodeName(m.GetNode()),
		Ref:    m.GetRef(),
		Value:  FromValue(m.GetValue()),
		Source: m.GetSource(),
		At:     FromTime(m.GetAtUnixMs()),
	}
	for _, i := range m.GetInstances() {
		r.Instances = append(r.Instances, fleet.Instance{Name: i.GetName(), Value: FromValue(i.GetValue())})
	}
	return r
}

// ToChange is the message of c.
func ToChange(c fleet.Change) *pb.Change {
	return &pb.Change{
		Node:    utf8(string(c.Node)),
		Path:    utf8(c.Path),
		Before:  utf8(c.Before),
		After:   utf8(c.After),
		Verdict: utf8(string(c.Verdict)),
		Note:    utf8(c.Note),
	}
}

// FromChange is the change of m.
func FromChange(m *pb.Change) fleet.Change {
	return fleet.Change{
		Node:    fleet.NodeName(m.GetNode()),
		Path:    m.GetPath(),
		Before:  m.GetBefore(),
		After:   m.GetAfter(),
		Verdict: fleet.Verdict(m.GetVerdict()),
		Note:    m.GetNote(),
	}
}

// ToResult is the message of r.
func ToResult(r fleet.Result) *pb.Result {
	return &pb.Result{
		Run:           utf8(string(r.Run)),
		Script:        utf8(string(r.Script)),
		Rule:          utf8(r.Rule),
		Node:          utf8(string(r.Node)),
		Step:          utf8(r.Step),
		Path:          utf8(r.Path),
		Before:        utf8(r.Before),
		After:         utf8(r.After),
		Status:        utf8(string(r.Status)),
		Kind:          utf8(r.Kind),
		Error:         utf8(r.Error),
		Hint:          utf8(r.Hint),
		StartedUnixMs: ToTime(r.Started),
		TookUs:        r.Took.Microseconds(),
		Attempts:      int32(r.Attempts),
		Readings:      each(r.Readings, ToReading),
		Body:          r.Body,
		By:            utf8(r.By),
	}
}

// FromResult is the result of m.
func FromResult(m *pb.Result) fleet.Result {
	return fleet.Result{
		Run:      fleet.RunID(m.GetRun()),
		Script:   fleet.ScriptName(m.GetScript()),
		Rule:     m.GetRule(),
		Node:     fleet.NodeName(m.GetNode()),
		Step:     m.GetStep(),
		Path:     m.GetPath(),
		Before:   m.GetBefore(),
		After:    m.GetAfter(),
		Status:   fleet.Status(m.GetStatus()),
		Kind:     m.GetKind(),
		Error:    m.GetError(),
		Hint:     m.GetHint(),
		Started:  FromTime(m.GetStartedUnixMs()),
		Took:     time.Duration(m.GetTookUs()) * time.Microsecond,
		Attempts: int(m.GetAttempts()),
		Readings: each(m.GetReadings(), FromReading),
		Body:     m.GetBody(),
		By:       m.GetBy(),
	}
}

// ToNode is the message of n.
func ToNode(n fleet.Node) *pb.Node {
	return &pb.Node{
		Name:       utf8(string(n.Name)),
		Rack:       utf8(string(n.Rack)),
		Site:       utf8(string(n.Site)),
		Bmc:        utf8(n.BMC),
		Address:    utf8(n.Address),
		Found:      utf8(n.Found),
		Vendor:     utf8(n.Vendor),
		Model:      utf8(n.Model),
		Serial:     utf8(n.Serial),
		Power:      utf8(n.Power),
		Health:     utf8(n.Health),
		State:      utf8(string(n.State)),
		Reason:     utf8(n.Reason),
		SeenUnixMs: ToTime(n.Seen),
		Labels:     labels(n.Labels),
		Trust:      ToBMCTrust(n.Trust),
		Firmware:   utf8(n.Firmware),
		Bios:       utf8(n.BIOS),
		Admission:  ToAdmission(n.Admission),
	}
}

// FromNode is the node of m.
func FromNode(m *pb.Node) fleet.Node {
	return fleet.Node{
		Name:    fleet.NodeName(m.GetName()),
		Rack:    fleet.RackName(m.GetRack()),
		Site:    fleet.SiteName(m.GetSite()),
		BMC:     m.GetBmc(),
		Address: m.GetAddress(),
		Found:   m.GetFound(),
		Vendor:  m.GetVendor(),
		Model:   m.GetModel(),
		Serial:  m.GetSerial(),
		Power:   m.GetPower(),
		Health:  m.GetHealth(),
		State:   fleet.NodeState(m.GetState()),
		Reason:  m.GetReason(),
		Seen:    FromTime(m.GetSeenUnixMs()),
		Labels:  labels(m.GetLabels()),
		Trust:   FromBMCTrust(m.GetTrust()),

		Firmware: m.GetFirmware(),
		BIOS:     m.GetBios(),

		Admission: FromAdmission(m.GetAdmission()),
	}
}

// ToHardwareNews is the message of n.
func ToHardwareNews(n fleet.HardwareNews) *pb.HardwareNews {
	return &pb.HardwareNews{
		Node: utf8(string(n.Node)), AtUnixMs: ToTime(n.At), More: int32(min(n.More, math.MaxInt32)),
		Changes: each(n.Changes, func(c fleet.HardwareChange) *pb.HardwareChange {
			return &pb.HardwareChange{What: utf8(c.What), Kind: utf8(c.Kind), Path: utf8(c.Path), Before: utf8(c.Before), After: utf8(c.After)}
		}),
	}
}

// FromHardwareNews is the news of m.
func FromHardwareNews(m *pb.HardwareNews) fleet.HardwareNews {
	return fleet.HardwareNews{
		Node: fleet.NodeName(m.GetNode()), At: FromTime(m.GetAtUnixMs()), More: int(m.GetMore()),
		Changes: each(m.GetChanges(), func(c *pb.HardwareChange) fleet.HardwareChange {
			return fleet.HardwareChange{What: c.GetWhat(), Kind: c.GetKind(), Path: c.GetPath(), Before: c.GetBefore(), After: c.GetAfter()}
		}),
	}
}

// ToFiring is the message of f.
func ToFiring(f fleet.Firing) *pb.Firing {
	return &pb.Firing{
		Script:    utf8(string(f.Script)),
		Rule:      utf8(f.Rule),
		Node:      utf8(string(f.Node)),
		Condition: utf8(f.Condition),
		Readings:  each(f.Readings, ToReading),
		AtUnixMs:  ToTime(f.At),
		CutOff:    f.CutOff,
		Results:   each(f.Results, ToResult),
		Held:      utf8(f.Held),
		Asked:     toAsked(f.Asked),
	}
}

func toAsked(a fleet.Asked) *pb.AskedBy {
	if a == (fleet.Asked{}) {
		return nil
	}
	return &pb.AskedBy{Rack: utf8(string(a.Rack)), Agent: utf8(string(a.Agent)), Node: utf8(string(a.Node)), AtUnixMs: ToTime(a.At)}
}

func fromAsked(m *pb.AskedBy) fleet.Asked {
	return fleet.Asked{
		Rack: fleet.RackName(m.GetRack()), Agent: fleet.AgentName(m.GetAgent()), Node: fleet.NodeName(m.GetNode()), At: FromTime(m.GetAtUnixMs()),
	}
}

// FromFiring is the firing of m.
func FromFiring(m *pb.Firing) fleet.Firing {
	return fleet.Firing{
		Script:    fleet.ScriptName(m.GetScript()),
		Rule:      m.GetRule(),
		Node:      fleet.NodeName(m.GetNode()),
		Condition: m.GetCondition(),
		Readings:  each(m.GetReadings(), FromReading),
		At:        FromTime(m.GetAtUnixMs()),
		CutOff:    m.GetCutOff(),
		Results:   each(m.GetResults(), FromResult),
		Held:      m.GetHeld(),
		Asked:     fromAsked(m.GetAsked()),
	}
}

// each converts a list; an empty one is nil.
func each[A, B any](from []A, convert func(A) B) []B {
	if len(from) == 0 {
		return nil
	}
	to := make([]B, len(from))
	for i, a := range from {
		to[i] = convert(a)
	}
	return to
}

func labels(from map[string]string) map[string]string {
	if len(from) == 0 {
		return nil
	}
	to := make(map[string]string, len(from))
	for k, v := range from {
		to[utf8(k)] = utf8(v)
	}
	return to
}

func utf8(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// Mark tells whether an agent has a script: its bytes and the order for them.
func Mark(s *pb.Script) string {
	return s.GetDigest() + "@" + strconv.FormatUint(s.GetVersion(), 10)
}

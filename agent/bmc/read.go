package bmc

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// sample is what an element's source found on the BMC.
type sample struct {
	all []fleet.Instance
	uri redfish.Link
}

// source reads one element. An error makes it unknown with that reason.
type source func(ctx context.Context, v *view, ref scl.Ref) (sample, error)

// elements is the table of what a BMC answers, by name. It is never written to.
var elements = sync.OnceValue(sources)

func sources() map[string]source {
	table := map[string]source{}
	for _, part := range []map[string]source{systemSources(), partSources(), sensorSources(), chassisSources(), bmcSources()} {
		maps.Copy(table, part)
	}
	return table
}

// Read reads the elements with as few requests as the BMC allows: several refs
// on one resource cost one. The readings have the order of refs; what could not
// be read is unknown with the reason and harms no other. The error is that of
// the first reading for which the BMC was not reached or let nobody in; the
// readings are valid all the same.
func (l *Lane) Read(ctx context.Context, prio Priority, refs []scl.Ref) ([]fleet.Reading, error) {
	v := l.view(prio)
	table := elements()
	out := make([]fleet.Reading, len(refs))
	errs := make([]error, len(refs))
	var all sync.WaitGroup
	var shared []int
	whole := l.sensorsInOnePiece()
	for i, ref := range refs {
		if whole && ref.Element != nil && isSensor(ref.Element.Name) {
			shared = append(shared, i)
			continue
		}
		all.Go(func() { out[i], errs[i] = v.read(ctx, table, ref) })
	}
	for _, i := range shared { // the first reads it, the others would but wait for it
		out[i], errs[i] = v.read(ctx, table, refs[i])
	}
	all.Wait()
	for _, err := range errs {
		switch fault.KindOf(err) {
		case fault.Unavailable, fault.Timeout, fault.Untrusted, fault.Denied, fault.Canceled:
			return out, err
		default:
		}
	}
	return out, nil
}

func (v *view) read(ctx context.Context, table map[string]source, ref scl.Ref) (fleet.Reading, error) {
	read, known := pointed, ref.URI != ""
	if !known && ref.Element != nil {
		read, known = table[ref.Element.Name]
	}
	r := fleet.Reading{Node: v.lane.cfg.Node, Ref: ref.Text}
	if !known {
		r.Value, r.At = fleet.NoValue("the agent reads no such element from a BMC"), v.lane.cfg.Now()
		return r, nil
	}
	s, err := read(ctx, v, ref)
	r.At, r.Source = v.lane.cfg.Now(), string(s.uri)
	if err != nil {
		r.Value = fleet.NoValue(strings.TrimPrefix(err.Error(), string(v.lane.cfg.Node)+": "))
		return r, err
	}
	r.Instances = s.all
	r.Value = reduce(ref, s.all)
	return r, nil
}

// pointed reads (redfish "URI#/pointer").
func pointed(ctx context.Context, v *view, ref scl.Ref) (sample, error) {
	s := sample{uri: redfish.Link(ref.URI)}
	body, err := v.Fetch(ctx, ref.URI)
	if err != nil {
		return s, err
	}
	var value fleet.Value
	switch x := redfish.At(body, ref.Pointer).(type) {
	case string:
		value = fleet.Text(x)
	case float64:
		value = fleet.Number(x, fleet.NoUnit)
	case bool:
		value = fleet.Bool(x)
	case nil:
		return s, fault.New(fault.NotFound, "", fmt.Sprintf("there is no value at %s#%s", ref.URI, ref.Pointer))
	default:
		return s, fault.New(fault.BadInput, "", fmt.Sprintf("%s#%s is an object or a list, not one value", ref.URI, ref.Pointer))
	}
	s.all = []fleet.Instance{{Name: ref.Pointer, Value: value}}
	return s, nil
}

// reduce makes one value of the instances, as the element's registry row says.
func reduce(ref scl.Ref, all []fleet.Instance) fleet.Value {
	how := scl.First
	if ref.Element != nil {
		how = ref.Element.Reduce
	}
	var result fleet.Value
	for _, i := range all {
		if !i.Value.Known() {
			continue
		}
		if !result.Known() {
			result = i.Value
			continue
		}
		result = combine(how, result, i.Value)
	}
	if !result.Known() {
		why := "this BMC reports no value"
		if len(all) > 0 && all[0].Value.Why() != "" {
			why = all[0].Value.Why()
		}
		return fleet.NoValue(why)
	}
	return result
}

func combine(how scl.Reduction, a, b fleet.Value) fleet.Value {
	if how == scl.Worst {
		if severity(b) > severity(a) {
			return b
		}
		return a
	}
	x, okX := a.Number()
	y, okY := b.Number()
	if !okX || !okY || a.Unit() != b.Unit() {
		return a
	}
	switch how {
	case scl.Max:
		return fleet.Number(max(x, y), a.Unit())
	case scl.Min:
		return fleet.Number(min(x, y), a.Unit())
	case scl.Sum:
		return fleet.Number(x+y, a.Unit())
	case scl.First, scl.Worst:
	}
	return a
}

// severity orders the Redfish health values.
func severity(v fleet.Value) int {
	text, _ := v.Text()
	switch strings.ToLower(text) {
	case "critical":
		return 3
	case "warning":
		return 2
	case "ok":
		return 1
	default:
		return 0
	}
}

// one is a sample of a single value.
func one(name string, value fleet.Value, uri redfish.Link) sample {
	return sample{all: []fleet.Instance{{Name: name, Value: value}}, uri: uri}
}

// textOf is a text, or the statement that the BMC reports no such thing.
func textOf(t redfish.Text, what string) fleet.Value {
	if t == "" {
		return fleet.NoValue("this BMC reports no " + what)
	}
	return fleet.Text(string(t))
}

// wordOf is textOf in SCL's spelling of enumerations.
func wordOf(t redfish.Text, what string) fleet.Value {
	return textOf(redfish.Text(kebab(string(t))), what)
}

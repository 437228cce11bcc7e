package wire_test

import (
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// exact lets cmp see into fleet.Value, whose fields are its own.
var exact = cmp.AllowUnexported(fleet.Value{})

// fill sets every exported field of v at random, so that a field that somebody
// adds to a noun and forgets to convert fails the round trip.
func fill(r *rand.Rand, v reflect.Value) {
	switch v.Interface().(type) {
	case fleet.Value:
		v.Set(reflect.ValueOf(randomValue(r)))
		return
	case time.Time:
		v.Set(reflect.ValueOf(time.UnixMilli(1 + r.Int64N(4e12)).UTC()))
		return
	case time.Duration:
		v.SetInt(int64(time.Duration(r.Int64N(1e9)) * time.Microsecond))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for _, field := range v.Fields() {
			fill(r, field)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1+r.IntN(3), 4))
		for i := range v.Len() {
			fill(r, v.Index(i))
		}
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{text(r): text(r), text(r): text(r)}))
	case reflect.String:
		v.SetString(text(r))
	case reflect.Bool:
		v.SetBool(r.IntN(4) > 0)
	case reflect.Int:
		v.SetInt(1 + r.Int64N(1000))
	case reflect.Uint8:
		v.SetUint(1 + r.Uint64N(255))
	default:
		panic("a kind this test does not know: " + v.Type().String())
	}
}

func text(r *rand.Rand) string {
	alphabet := []rune("abcdefg °é日\x00\"")
	var b strings.Builder
	for range 1 + r.IntN(12) {
		b.WriteRune(alphabet[r.IntN(len(alphabet))])
	}
	return b.String()
}

func randomValue(r *rand.Rand) fleet.Value {
	switch r.IntN(4) {
	case 0:
		return fleet.Number(r.NormFloat64()*1e6, fleet.Unit(r.IntN(int(fleet.Hertz)+1)))
	case 1:
		return fleet.Text(text(r))
	case 2:
		return fleet.Bool(r.IntN(2) == 0)
	default:
		return fleet.NoValue(text(r))
	}
}

// roundTrip checks that X -> message -> bytes -> message -> X changes nothing.
func roundTrip[X any, M proto.Message](t *testing.T, to func(X) M, from func(M) X) {
	t.Helper()
	var zero X
	if got := from(to(zero)); !cmp.Equal(zero, got, exact) {
		t.Errorf("the zero %T came back changed:\n%s", zero, cmp.Diff(zero, got, exact))
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var x X
		fill(r, reflect.ValueOf(&x).Elem())
		m := to(x)
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatalf("encode %T: %v", m, err)
		}
		back := m.ProtoReflect().New().Interface().(M)
		if err := proto.Unmarshal(b, back); err != nil {
			t.Fatalf("decode %T: %v", m, err)
		}
		if got := from(back); !cmp.Equal(x, got, exact) {
			t.Fatalf("%T came back changed:\n%s", x, cmp.Diff(x, got, exact))
		}
	}
}

func TestRoundTrip(t *testing.T) {
	t.Run("reading", func(t *testing.T) { roundTrip(t, wire.ToReading, wire.FromReading) })
	t.Run("change", func(t *testing.T) { roundTrip(t, wire.ToChange, wire.FromChange) })
	t.Run("result", func(t *testing.T) { roundTrip(t, wire.ToResult, wire.FromResult) })
	t.Run("node", func(t *testing.T) { roundTrip(t, wire.ToNode, wire.FromNode) })
	t.Run("firing", func(t *testing.T) { roundTrip(t, wire.ToFiring, wire.FromFiring) })
	t.Run("hardware", func(t *testing.T) { roundTrip(t, wire.ToHardwareNews, wire.FromHardwareNews) })
	t.Run("value", func(t *testing.T) {
		r := rand.New(rand.NewPCG(3, 4))
		for range 500 {
			v := randomValue(r)
			if got := wire.FromValue(wire.ToValue(v)); !cmp.Equal(v, got, exact) {
				t.Fatalf("%v came back as %v", v, got)
			}
		}
	})
}

func TestWhatABMCSaysNeverStopsEncoding(t *testing.T) {
	bad := "rack\xff\xfe"
	messages := []proto.Message{
		wire.ToResult(fleet.Result{
			Node: fleet.NodeName(bad), Step: bad, Error: bad, Before: bad,
			Readings: []fleet.Reading{{Ref: bad, Value: fleet.Text(bad), Instances: []fleet.Instance{{Name: bad, Value: fleet.NoValue(bad)}}}},
		}),
		wire.ToNode(fleet.Node{Model: bad, Serial: bad, Labels: map[string]string{bad: bad}}),
		wire.ToFiring(fleet.Firing{Rule: bad, Condition: bad, Held: bad}),
		wire.ToChange(fleet.Change{Before: bad, Note: bad}),
		wire.ToHardwareNews(fleet.HardwareNews{Node: fleet.NodeName(bad), Changes: []fleet.HardwareChange{{What: bad, Kind: bad, Path: bad, Before: bad, After: bad}}}),
	}
	for _, m := range messages {
		if _, err := proto.Marshal(m); err != nil {
			t.Errorf("%T: %v", m, err)
		}
	}
	if got := wire.ToNode(fleet.Node{Model: bad}).GetModel(); got != "rack\uFFFD" {
		t.Errorf("model %q", got)
	}
}

func TestAValueOfALaterVersionIsUnknown(t *testing.T) {
	for name, m := range map[string]*pb.Value{
		"no message": nil,
		"no kind":    {},
		"a new unit": {Kind: &pb.Value_Number{Number: 3}, Unit: "lux"},
	} {
		v := wire.FromValue(m)
		if v.Known() || v.Why() == "" {
			t.Errorf("%s: got %v, why %q; want unknown with a reason", name, v, v.Why())
		}
	}
}

func TestFaultsKeepKindTextAndHint(t *testing.T) {
	err := fault.New(fault.Unavailable, "log in", "connection refused").WithHint("is it on?")
	kind, text, hint := wire.ToFault(err)
	back := wire.FromFault(kind, text, hint)
	if fault.KindOf(back) != fault.Unavailable || back.Error() != err.Error() || fault.HintOf(back) != "is it on?" {
		t.Errorf("got %q of kind %q, hint %q", back, fault.KindOf(back), fault.HintOf(back))
	}
	if k, s, h := wire.ToFault(nil); k+s+h != "" || wire.FromFault("", "", "") != nil {
		t.Error("nil did not come back as nil")
	}
	if k := fault.KindOf(wire.FromFault("", "odd", "")); k != fault.Internal {
		t.Errorf("an error without a kind is %q, want internal", k)
	}
}

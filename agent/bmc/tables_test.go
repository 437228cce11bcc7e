package bmc

import (
	"encoding/json"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

func TestQuantity(t *testing.T) {
	for _, c := range []struct {
		n    float64
		unit string
		want string
	}{
		{21.5, "Cel", "21.5C"},
		{21.5, "C", "21.5C"},
		{40, "%", "40%"},
		{40, "Percent", "40%"},
		{4000, "RPM", "4000rpm"},
		{4000, "{rev}/min", "4000rpm"},
		{212, "W", "212W"},
		{0.212, "kW", "212W"},
		{1500, "mW", "1.5W"},
		{12, "V", "12V"},
		{3, "A", "3A"},
		{7, "", "7"},
		{7, "furlong", "7"},
		{-3, "Cel", "-3C"},
	} {
		if got := quantity(redfish.Number{Value: c.n, Set: true}, c.unit, "s"); got.String() != c.want {
			t.Errorf("%v %s is %s, want %s", c.n, c.unit, got, c.want)
		}
	}
	if got := quantity(redfish.Number{}, "Cel", "cpu0"); got.Known() || got.Why() != "the sensor cpu0 reports no value now" {
		t.Errorf("no number is %s: %q", got, got.Why())
	}
}

func TestGuess(t *testing.T) {
	for id, want := range map[string]trait{
		"temperature_cpu0_temp": {id: "temperature_cpu0_temp", name: "cpu0 temp", kind: "temperature"},
		"fantach_fan0":          {id: "fantach_fan0", name: "fan0", kind: "Rotational"},
		"fanpwm_fan0":           {id: "fanpwm_fan0", name: "fan0", kind: "Percent"},
		"utilization_cpu0":      {id: "utilization_cpu0", name: "cpu0", kind: "Percent"},
		"power_total_power":     {id: "power_total_power", name: "total power", kind: "power"},
		"CPU1Temp":              {id: "CPU1Temp"}, // it has to be read
		"":                      {},
	} {
		if got := guess(id); got != want {
			t.Errorf("%q is guessed to be %+v, want %+v", id, got, want)
		}
	}
}

// One sensor may be of several roles, and of none by accident.
func TestRoles(t *testing.T) {
	for _, c := range []struct {
		t    trait
		role string
		want bool
	}{
		{trait{kind: "Temperature", name: "CPU1 Temp"}, "cpu.temp", true},
		{trait{kind: "temperature", name: "P1 DTS"}, "cpu.temp", true},
		{trait{kind: "Temperature", name: "anything", context: "CPU"}, "cpu.temp", true},
		{trait{kind: "Temperature", name: "CPU1 VRM", context: "CPU"}, "cpu.temp", false}, // its regulator
		{trait{kind: "Temperature", name: "CPU1 Margin"}, "cpu.temp", false},              // counts down
		{trait{kind: "Voltage", name: "CPU1"}, "cpu.temp", false},
		{trait{kind: "Temperature", name: "DIMM A1"}, "memory.temp", true},
		{trait{kind: "Temperature", name: "NVMe 3"}, "storage.drive.temp", true},
		{trait{kind: "Temperature", name: "Drive Backplane"}, "storage.drive.temp", false},
		{trait{kind: "Temperature", name: "System Board Inlet Temp"}, "temp.inlet", true},
		{trait{kind: "Temperature", name: "x", context: "Exhaust"}, "temp.exhaust", true},
		{trait{kind: "Power", name: "total power"}, "power.watts", true},
		{trait{kind: "Power", name: "power cap"}, "power.watts", false},
		{trait{kind: "Percent", name: "fan0 pwm"}, fanRole, true},
		{trait{kind: "Percent", name: "cpu0"}, fanRole, false},
		{trait{}, "temp.max", false},
	} {
		c.t.recognize(trait{})
		if got := c.t.roles&roles()[c.role].bit != 0; got != c.want {
			t.Errorf("%+v is of %s: %v, want %v", c.t, c.role, got, c.want)
		}
	}
	for name, r := range roles() {
		for other, o := range roles() {
			if r.bit == 0 || name != other && r.bit == o.bit {
				t.Errorf("%s and %s share the bit %b", name, other, r.bit)
			}
		}
	}
}

// The sensors that speak for the whole are preferred to its parts.
func TestPrefer(t *testing.T) {
	r := roles()["power.watts"]
	of := func(names ...string) (all []*sensor) {
		for _, n := range names {
			s := &sensor{trait: trait{kind: "Power", name: redfish.Text(n)}}
			s.recognize(trait{})
			all = append(all, s)
		}
		return all
	}
	if got := r.prefer(of("psu0 input", "total power", "psu1 input")); len(got) != 1 || got[0].name != "total power" {
		t.Errorf("%d are preferred", len(got))
	}
	if got := r.prefer(of("psu0 input", "psu1 input")); len(got) != 2 {
		t.Errorf("%d of two are left where none speaks for all", len(got))
	}
}

func TestSystemWords(t *testing.T) {
	for _, c := range []struct{ body, led, boot, tag string }{
		{`{}`, "—", "—", "—"},
		{`{"IndicatorLED":"Lit","Boot":{"BootSourceOverrideTarget":"Pxe","BootSourceOverrideEnabled":"Once"},"AssetTag":"r7"}`, "on", "pxe", "r7"},
		{`{"IndicatorLED":"Blinking","Boot":{"BootSourceOverrideTarget":"Hdd","BootSourceOverrideEnabled":"Continuous"},"AssetTag":""}`, "blink", "hdd", ""},
		{`{"IndicatorLED":"Off","LocationIndicatorActive":true,"Boot":{"BootSourceOverrideTarget":"Pxe","BootSourceOverrideEnabled":"Disabled"}}`, "on", "none", "—"},
		{`{"IndicatorLED":"Off"}`, "off", "—", "—"},
		{`{"LocationIndicatorActive":"false","Boot":"x","AssetTag":null}`, "off", "—", "—"},
		{`{"IndicatorLED":"Unknown","LocationIndicatorActive":null}`, "—", "—", "—"},
	} {
		var s system
		if err := redfish.Decode([]byte(c.body), &s); err != nil {
			t.Fatal(err)
		}
		got := [3]string{led(&s).String(), bootTarget(s.Boot).String(), assetTag(&s).String()}
		if got != [3]string{c.led, c.boot, c.tag} {
			t.Errorf("%s: light, boot and tag are %q", c.body, got)
		}
	}
}

func TestReduce(t *testing.T) {
	n := func(values ...float64) (all []fleet.Instance) {
		for _, v := range values {
			all = append(all, fleet.Instance{Value: fleet.Number(v, fleet.Celsius)})
		}
		return all
	}
	texts := func(values ...string) (all []fleet.Instance) {
		for _, v := range values {
			all = append(all, fleet.Instance{Value: fleet.Text(v)})
		}
		return all
	}
	unknown := fleet.Instance{Value: fleet.NoValue("it is off")}
	for _, c := range []struct {
		how  scl.Reduction
		all  []fleet.Instance
		want string
	}{
		{scl.First, n(3, 9, 1), "3C"},
		{scl.Max, n(3, 9, 1), "9C"},
		{scl.Min, n(3, 9, 1), "1C"},
		{scl.Sum, n(3, 9, 1), "13C"},
		{scl.Max, append([]fleet.Instance{unknown}, n(3, 9)...), "9C"},
		{scl.Max, []fleet.Instance{unknown, unknown}, "— it is off"},
		{scl.Max, nil, "— this BMC reports no value"},
		{scl.Max, append(n(3), fleet.Instance{Value: fleet.Number(900, fleet.RPM)}), "3C"}, // no units are mixed
		{scl.Worst, texts("OK", "Critical", "Warning"), "Critical"},
		{scl.Worst, texts("OK", "ok?"), "OK"},
		{scl.Worst, texts("odd", "OK"), "OK"},
		{scl.Worst, texts("WARNING", "OK"), "WARNING"},
	} {
		got := reduce(scl.Ref{Element: &scl.Element{Reduce: c.how}}, c.all)
		text := got.String()
		if !got.Known() {
			text += " " + got.Why()
		}
		if text != c.want {
			t.Errorf("%v of %v is %s, want %s", c.how, c.all, text, c.want)
		}
	}
}

func TestChooseSystem(t *testing.T) {
	all := []redfish.Link{"/redfish/v1/Systems/1", "/redfish/v1/Systems/Node2/"}
	for _, c := range []struct {
		id   string
		all  []redfish.Link
		want redfish.Link
		kind fault.Kind
	}{
		{"", all, all[0], ""}, {"node2", all, all[1], ""}, {"3", all, "", fault.NotFound}, {"", nil, "", fault.Unsupported}, {"1", nil, "", fault.NotFound},
	} {
		l := &Lane{cfg: Config{System: c.id}}
		if got, err := l.choose(c.all); got != c.want || fault.KindOf(err) != c.kind {
			t.Errorf("system %q of %v is %q, %v", c.id, c.all, got, err)
		}
	}
}

func TestUsualLog(t *testing.T) {
	for want, members := range map[redfish.Link][]redfish.Link{
		"/l/EventLog": {"/l/PostCodes", "/l/SEL", "/l/EventLog"}, "/l/sel/": {"/l/Dump", "/l/sel/"}, "/l/Log1": {"/l/Log1", "/l/Log2"}, "/l/IML": {"/l/IML", "/l/IEL"},
	} {
		if got := usualLog(members); got != want {
			t.Errorf("of %v it is %s, want %s", members, got, want)
		}
	}
}

// Whole is for counts and sums: one that failed makes them unknown.
func TestWhole(t *testing.T) {
	failed := fault.New(fault.Unavailable, "read", "500")
	if all, err := whole([]got[int]{{value: 1}, {err: failed}}); err == nil || all != nil {
		t.Errorf("%v, %v", all, err)
	}
	if all, err := whole([]got[int]{{value: 1}, {value: 2}}); err != nil || len(all) != 2 {
		t.Errorf("%v, %v", all, err)
	}
}

func TestKebab(t *testing.T) {
	for in, want := range map[string]string{"PoweringOn": "powering-on", "OSRunning": "osrunning", "": "", "on": "on", "UefiHttp": "uefi-http"} {
		if got := kebab(in); got != want {
			t.Errorf("%s is %s, want %s", in, got, want)
		}
	}
}

// The structs tolerate every member of the wrong type.
func TestModelsTolerateEverything(t *testing.T) {
	wrong := []any{nil, true, 7, "text", []any{1}, map[string]any{"@odata.id": 5}}
	names := []string{
		"Id", "UUID", "AssetTag", "Status", "Boot", "BootProgress", "ProcessorSummary", "MemorySummary", "Links", "Actions", "Sensors", "Thermal", "DHCPv4",
		"IPv4Addresses", "CapacityBytes", "FirmwareVersion", "Updateable", "@Redfish.Settings", "IndicatorLED",
	}
	for _, value := range wrong {
		doc := map[string]any{"Name": "kept"}
		for _, n := range names {
			doc[n] = value
		}
		body, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		var m member
		for _, out := range []any{&system{}, &manager{}, &chassis{}, &drive{}, &ethernet{}, &m} {
			if err := redfish.Decode(body, out); err != nil {
				t.Errorf("%T of %s: %v", out, body, err)
			}
		}
		if m.Name != "kept" {
			t.Errorf("one mistyped member lost another: %s", body)
		}
	}
}

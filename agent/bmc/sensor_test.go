package bmc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/recorded"
	"github.com/chiba-mesh/chiba/pkg/redfish/scan"
)

// reference is a Sensor as encoding/json reads it: what scanSensor is held against.
type reference struct {
	ID      redfish.Text   `json:"Id"`
	Name    redfish.Text   `json:"Name"`
	Type    redfish.Text   `json:"ReadingType"`
	Context redfish.Text   `json:"PhysicalContext"`
	Reading redfish.Number `json:"Reading"`
	Units   redfish.Text   `json:"ReadingUnits"`
	RPM     redfish.Number `json:"SpeedRPM"`
	Status  redfish.Status `json:"Status"`
}

func (r reference) sensor() sensor {
	s := sensor{
		trait:  trait{id: r.ID, name: r.Name, kind: r.Type, context: r.Context, units: r.Units},
		health: redfish.Text(r.Status.Worst()),
	}
	if r.RPM.Set {
		s.rpm = fleet.Number(r.RPM.Value, fleet.RPM)
	}
	for _, t := range []*redfish.Text{&s.id, &s.name, &s.kind, &s.context, &s.units, &s.health} {
		*t = cut(*t)
	}
	s.value = quantity(r.Reading, string(s.units), string(s.name))
	s.recognize(trait{})
	return s
}

func scanned(body string, known sensor) (sensor, error) {
	s := scan.New([]byte(body), 64)
	found := scanSensor(s, &known)
	return found, s.End()
}

// TestScanSensor reads sensors as makes of BMC send them, and as none should.
func TestScanSensor(t *testing.T) {
	for _, c := range []struct{ name, body, want string }{
		{"OpenBMC", `{"@odata.id":"/S/temperature_cpu0","Id":"temperature_cpu0","Name":"cpu0","Reading":55.125,"ReadingType":"Temperature","ReadingUnits":"Cel",
			"Status":{"Health":"OK","State":"Enabled"},"Thresholds":{"UpperCritical":{"Reading":100.0,"Name":"not this"}}}`, "temperature_cpu0 cpu0 Temperature 55.125C OK cpu.temp temp.max"},
		{"iDRAC", `{"Id":"SystemBoardInletTemp","Name":"System Board Inlet Temp","PhysicalContext":"SystemBoard","Reading":23,"ReadingType":"Temperature","ReadingUnits":"Cel",
			"Status":{"Health":"OK","HealthRollup":"Warning"}}`, "SystemBoardInletTemp System Board Inlet Temp Temperature 23C Warning temp.inlet temp.max"},
		{
			"iLO", `{"Id":"0","Name":"01-Inlet Ambient","PhysicalContext":"Intake","Reading":21,"ReadingType":"Temperature","ReadingUnits":"Cel","Status":{"Health":"OK"}}`,
			"0 01-Inlet Ambient Temperature 21C OK temp.inlet temp.max",
		},
		{
			"Supermicro", `{"Id":"FAN1","Name":"FAN1","PhysicalContext":"Fan","Reading":"5600","ReadingType":"Rotational","ReadingUnits":"RPM","Status":{"Health":"Critical"}}`,
			"FAN1 FAN1 Rotational 5600rpm Critical fan.speed",
		},
		{"percent and rpm", `{"Id":"F","Name":"Fan 1","ReadingType":"Percent","ReadingUnits":"%","Reading":40,"SpeedRPM":4000}`, "F Fan 1 Percent 40% fan.speed and 4000rpm"},
		{"off", `{"Id":"a","Name":"cpu1","ReadingType":"Temperature","ReadingUnits":"Cel","Reading":null}`, "a cpu1 Temperature — cpu.temp temp.max"},
		{"missing members", `{"Id":"a"}`, "a   —"},
		{"mistyped", `{"Id":7,"Name":["x"],"ReadingType":{"a":1},"ReadingUnits":null,"Reading":[5],"Status":"fine","SpeedRPM":"fast"}`, "7   —"},
		{"twice", `{"Id":"a","Id":"b","Reading":1,"Reading":2,"ReadingUnits":"V"}`, "b   2V"},
		{"escaped", `{"\u0049d":"a\u0062","Name":"\"q\"","Reading":1e2,"ReadingUnits":"kW"}`, `ab "q"  100000W`},
		{"not finite", `{"Id":"a","Reading":1e999}`, "a   —"},
		{"no object", `["Id"]`, "   —"},
	} {
		got, err := scanned(c.body, sensor{})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if diff := cmp.Diff(c.want, told(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// told is a sensor with its roles, for a table.
func told(s sensor) string {
	words := []string{fmt.Sprintf("%s %s %s %s", s.id, s.name, s.kind, s.value)}
	if s.health != "" {
		words = append(words, string(s.health))
	}
	for _, e := range []string{"cpu.temp", "fan.speed", "power.watts", "temp.inlet", "temp.exhaust", "temp.max"} {
		if s.roles&roles()[e].bit != 0 {
			words = append(words, e)
		}
	}
	if s.rpm.Known() {
		words = append(words, "and", s.rpm.String())
	}
	return strings.Join(words, " ")
}

// What a sensor was known by is not believed: a BMC may put another one in its
// place, and everything about it is new then.
func TestScanSensorBelievesNoMemory(t *testing.T) {
	first, _ := scanned(`{"Id":"t","Name":"cpu0","ReadingType":"Temperature","ReadingUnits":"Cel","PhysicalContext":"CPU","Reading":50,"Status":{"Health":"Critical"}}`, sensor{})
	for _, body := range []string{
		`{"Id":"t","Name":"inlet","ReadingType":"Temperature","ReadingUnits":"Cel","Reading":20}`,
		`{"Id":"f","Name":"fan0","ReadingType":"Rotational","ReadingUnits":"RPM","Reading":50}`,
		`{"Id":"t","Name":"cpu0"}`, `{"Id":null}`, `{}`,
	} {
		got, _ := scanned(body, first)
		want, _ := scanned(body, sensor{})
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s reads as %+v after another sensor, else as %+v", body, got, want)
		}
	}
}

// FuzzSensor holds scanSensor against encoding/json: both accept the same texts
// and read the same of them, whatever the sensor was known as.
func FuzzSensor(f *testing.F) {
	f.Add(`{"Id":"temperature_cpu0","Name":"cpu0","ReadingType":"Temperature","ReadingUnits":"Cel","Reading":55.5,"PhysicalContext":"CPU"}`)
	f.Add(`{"Id":1,"Reading":"1e308","ReadingUnits":"kW","SpeedRPM":{}}`)
	f.Add(`{"Id":"a","Status":{"Health":"OK"},"Status":{"HealthRollup":"Critical"},"Name":"` + "\xff" + `"}`)
	f.Add(`{"Reading":5,"Reading":"x","Status":[{"Health":"OK"}],"\u004eame":"\ud800"}`)
	known, _ := scanned(`{"Id":"a","Name":"cpu0","ReadingType":"Temperature","ReadingUnits":"Cel","PhysicalContext":"CPU","Status":{"Health":"OK"}}`, sensor{})
	for _, body := range recorded.Bodies(f) {
		f.Add(string(body))
	}
	f.Fuzz(func(t *testing.T, body string) {
		got, err := scanned(body, sensor{})
		again, _ := scanned(body, known)
		if (err == nil) != json.Valid([]byte(body)) && strings.Count(body, "[")+strings.Count(body, "{") <= 64 {
			t.Fatalf("%q: %v; encoding/json says %v", body, err, json.Valid([]byte(body)))
		}
		var r reference
		if err != nil || otherCase(body) || redfish.Decode([]byte(body), &r) != nil {
			return
		}
		if want := r.sensor(); !reflect.DeepEqual(got, want) || !reflect.DeepEqual(again, want) {
			t.Errorf("%q reads as\n%+v, known\n%+v; want\n%+v", body, got, again, want)
		}
		for name, role := range roles() {
			if got.roles&role.bit != 0 && !role.measures(got.trait) {
				t.Errorf("%s takes a %s", name, got.kind)
			}
		}
		_ = fmt.Sprint(got.value, guess(string(r.ID)))
	})
}

// otherCase reports whether a name is written in another case than DSP0268 does:
// encoding/json alone takes that.
func otherCase(body string) bool {
	tokens := json.NewDecoder(strings.NewReader(body))
	for {
		token, err := tokens.Token()
		if err != nil {
			return false
		}
		for _, name := range []string{"Id", "Name", "ReadingType", "PhysicalContext", "Reading", "ReadingUnits", "SpeedRPM", "Status", "Health", "HealthRollup", "State"} {
			if text, ok := token.(string); ok && text != name && strings.EqualFold(text, name) {
				return true
			}
		}
	}
}

// wholeCollection is sixty sensors with all that OpenBMC says of them, as it
// writes it: 43 kB.
func wholeCollection() []byte {
	var members []string
	for i := range 60 {
		members = append(members, fmt.Sprintf(`{"@odata.id":"/redfish/v1/Chassis/chassis/Sensors/temperature_cpu%d","@odata.type":"#Sensor.v1_11_1.Sensor","Id":"temperature_cpu%d",
			"Name":"cpu%d","Reading":55.%d,"ReadingRangeMax":127.0,"ReadingRangeMin":-128.0,"ReadingType":"Temperature","ReadingUnits":"Cel",
			"Status":{"Health":"OK","State":"Enabled"},"Thresholds":{"LowerCaution":{"Reading":5.0},"LowerCritical":{"Reading":0.0},
			"UpperCaution":{"Reading":90.0},"UpperCritical":{"Reading":100.0}}}`, i, i, i, i))
	}
	var doc bytes.Buffer
	_ = json.Indent(&doc, []byte(`{"@odata.id":"/S","Members":[`+strings.Join(members, ",")+`],"Members@odata.count":60,"Name":"Sensors"}`), "", "  ")
	return doc.Bytes()
}

// decodeCollection is what collection does with an answer.
func decodeCollection(body []byte, known []sensor) ([]sensor, error) {
	found := make([]sensor, 0, len(known))
	s := scan.New(body, 64)
	for name := range s.Members {
		if string(name) == "Members" {
			for range s.Items {
				found = append(found, scanSensor(s, at(known, len(found))))
			}
		}
	}
	return found, s.End()
}

// A steady monitor decodes without making a text anew.
func TestSteadyDecodeAllocatesLittle(t *testing.T) {
	body := wholeCollection()
	known, err := decodeCollection(body, nil)
	if err != nil || len(known) != 60 {
		t.Fatal(err, len(known))
	}
	if n := testing.AllocsPerRun(50, func() { known, _ = decodeCollection(body, known) }); n > 3 {
		t.Errorf("%g allocations; want 3 at most", n)
	}
}

func BenchmarkDecode(b *testing.B) {
	body := wholeCollection()
	known, _ := decodeCollection(body, nil)
	b.Run("kept", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		b.ReportAllocs()
		for b.Loop() {
			if all, err := decodeCollection(body, known); err != nil || len(all) != 60 {
				b.Fatal(err, len(all))
			}
		}
	})
	b.Run("first time", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = decodeCollection(body, nil)
		}
	})
	b.Run("encoding-json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var doc struct{ Members []reference }
			if err := json.Unmarshal(body, &doc); err != nil {
				b.Fatal(err)
			}
		}
	})
}

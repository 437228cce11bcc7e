package sensors

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/climate"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/form"
)

func one(t *testing.T, id string) Sensor {
	t.Helper()
	list := Of(2, 4)
	i := slices.IndexFunc(list, func(s Sensor) bool { return s.ID == id })
	if i < 0 {
		t.Fatalf("there is no %s", id)
	}
	return list[i]
}

// An id is TYPE_NAME, as in bmcweb; a client finds what it looks for by it.
func TestSensorsOfAServer(t *testing.T) {
	var got []string
	for _, s := range Of(1, 2) {
		got = append(got, fmt.Sprintf("%s %s %s %s %s", s.ID, s.Ref, s.Quantity, s.units, s.Unit()))
	}
	want := []string{
		"fantach_fan0 fan.speed Rotational RPM rpm",
		"fantach_fan1 fan.speed Rotational RPM rpm",
		"power_cpu0 cpu.power Power W W",
		"power_total_power power.watts Power W W",
		"temperature_cpu0 cpu.temp Temperature Cel C",
		"temperature_exhaust temp.exhaust Temperature Cel C",
		"temperature_inlet temp.inlet Temperature Cel C",
		"utilization_cpu0 cpu.rate Percent % %",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n := len(Of(0, 0)); n != 3 {
		t.Errorf("without processors and fans there are %d", n)
	}
	if n := len(Of(12, 12)); n != 3+3*12+12 {
		t.Errorf("twelve of each make %d", n)
	}
}

func TestHealth(t *testing.T) {
	for _, tt := range []struct {
		id   string
		v    float64
		on   bool
		want string
	}{
		{"temperature_cpu0", 90, true, "OK"},
		{"temperature_cpu0", 90.001, true, "Warning"},
		{"temperature_cpu0", 100, true, "Warning"},
		{"temperature_cpu0", 100.001, true, "Critical"},
		{"temperature_cpu0", 4, true, "Warning"},
		{"temperature_cpu0", -1, true, "Critical"},
		{"temperature_cpu0", -1, false, "OK"}, // it is cold in a server that is off
		{"temperature_cpu0", 101, false, "Critical"},
		{"temperature_inlet", 41, true, "Warning"},
		{"temperature_exhaust", 71, true, "Critical"},
		{"fantach_fan0", 2000, true, "OK"},
		{"fantach_fan0", 1999, true, "Warning"},
		{"fantach_fan0", 999, true, "Critical"},
		{"fantach_fan0", 0, false, "OK"},
		{"fantach_fan0", 1e9, true, "OK"},
		{"power_total_power", 1e9, true, "OK"}, // it has no thresholds
		{"utilization_cpu0", 100, true, "OK"},
	} {
		if got := one(t, tt.id).Health(tt.v, tt.on); got != tt.want {
			t.Errorf("%s at %v, on=%v: %s, want %s", tt.id, tt.v, tt.on, got, tt.want)
		}
	}
}

// The sensors' own movement must stay away from what people watch.
func TestTheClimateIsHealthy(t *testing.T) {
	for _, on := range []bool{true, false} {
		for hour := range 200 {
			c := climate.Climate{Seed: uint64(hour), On: on, CPUs: 2, At: time.Unix(int64(hour)*3600, 0)}
			for _, s := range Of(2, 4) {
				v := s.Value(c)
				if health := s.Health(v, on); health != "OK" || v < s.low || v > s.high {
					t.Fatalf("%s reads %v and is %s, on=%v", s.ID, v, health, on)
				}
			}
		}
	}
}

func TestEachSensorReadsItsOwn(t *testing.T) {
	c := climate.Climate{Seed: 1, On: true, CPUs: 2, At: time.Unix(1000, 0)}
	for id, want := range map[string]float64{
		"temperature_cpu0": c.CPUTemp(0), "temperature_cpu1": c.CPUTemp(1), "power_cpu1": c.CPUPower(1), "utilization_cpu1": c.Load(1),
		"fantach_fan3": c.Fan(3), "temperature_inlet": c.Inlet(), "temperature_exhaust": c.Exhaust(), "power_total_power": c.Total(),
	} {
		if got := one(t, id).Value(c); got != want {
			t.Errorf("%s reads %v, want %v", id, got, want)
		}
	}
}

func TestBodies(t *testing.T) {
	for _, tt := range []struct {
		id   string
		v    float64
		want string
	}{
		{"temperature_cpu0", 40, `{"@odata.id":"/s/temperature_cpu0","@odata.type":"#Sensor.v1_11_1.Sensor","Id":"temperature_cpu0",` +
			`"Name":"cpu0","Reading":40.0,"ReadingRangeMax":127.0,"ReadingRangeMin":-128.0,"ReadingType":"Temperature","ReadingUnits":"Cel",` +
			`"Status":{"Health":"OK","State":"Enabled"},"Thresholds":{"LowerCaution":{"Reading":5.0},"LowerCritical":{"Reading":0.0},` +
			`"UpperCaution":{"Reading":90.0},"UpperCritical":{"Reading":100.0}}}`},
		{"fantach_fan0", 1500, `{"@odata.id":"/s/fantach_fan0","@odata.type":"#Sensor.v1_11_1.Sensor","Id":"fantach_fan0",` +
			`"Name":"fan0","Reading":1500.0,"ReadingRangeMax":20000.0,"ReadingRangeMin":0.0,"ReadingType":"Rotational","ReadingUnits":"RPM",` +
			`"SpeedRPM":1500.0,"Status":{"Health":"Warning","State":"Enabled"},"Thresholds":{"LowerCaution":{"Reading":2000.0},` +
			`"LowerCritical":{"Reading":1000.0},"UpperCaution":{"Reading":null},"UpperCritical":{"Reading":null}}}`},
		{"power_total_power", 350.25, `{"@odata.id":"/s/power_total_power","@odata.type":"#Sensor.v1_11_1.Sensor","Id":"power_total_power",` +
			`"Name":"total power","Reading":350.25,"ReadingRangeMax":3200.0,"ReadingRangeMin":0.0,"ReadingType":"Power","ReadingUnits":"W",` +
			`"Status":{"Health":"OK","State":"Enabled"}}`},
	} {
		got, err := json.Marshal(one(t, tt.id).Body("/s", form.Real(tt.v), true))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.id, diff)
		}
	}
}

func TestNumber(t *testing.T) {
	for _, tt := range []struct {
		text string
		unit fleet.Unit
		want float64
		bad  bool
	}{
		{text: "95", unit: fleet.Celsius, want: 95},
		{text: " 96.5C ", unit: fleet.Celsius, want: 96.5},
		{text: "-5C", unit: fleet.Celsius, want: -5},
		{text: "85%", unit: fleet.Percent, want: 85},
		{text: "4000rpm", unit: fleet.RPM, want: 4000},
		{text: "350W", unit: fleet.Watt, want: 350},
		{text: "350W", unit: fleet.Celsius, bad: true},
		{text: "", unit: fleet.Celsius, bad: true},
		{text: "C", unit: fleet.Celsius, bad: true},
		{text: "hot", unit: fleet.Celsius, bad: true},
		{text: "NaN", unit: fleet.Celsius, bad: true},
		{text: "Inf", unit: fleet.Watt, bad: true},
		{text: "1e999", unit: fleet.Watt, bad: true},
	} {
		got, err := Number(tt.text, tt.unit)
		if (err != nil) != tt.bad || got != tt.want {
			t.Errorf("%q in %s: %v %v", tt.text, tt.unit, got, err)
		}
		if err != nil && !strings.Contains(err.Error(), tt.unit.String()) {
			t.Errorf("%q: the error does not name the unit: %v", tt.text, err)
		}
	}
}

func TestReduce(t *testing.T) {
	for _, tt := range []struct {
		unit   fleet.Unit
		values []float64
		want   float64
	}{
		{fleet.Watt, []float64{100, 110}, 210},
		{fleet.RPM, []float64{5000, 4000, 6000}, 4000},
		{fleet.Celsius, []float64{50, 70, 60}, 70},
		{fleet.Percent, []float64{5}, 5},
		{fleet.Celsius, []float64{-10, -20}, -10},
	} {
		var instances []fleet.Instance
		for _, v := range tt.values {
			instances = append(instances, fleet.Instance{Value: fleet.Number(v, tt.unit)})
		}
		if got := Reduce(instances); !got.Equal(fleet.Number(tt.want, tt.unit)) {
			t.Errorf("%v in %s: %v, want %v", tt.values, tt.unit, got, tt.want)
		}
	}
}

// A number that is taken is finite, whatever is typed.
func FuzzNumber(f *testing.F) {
	for _, seed := range []string{"95C", "1e308", "-0", "0x1p-2", "Inf", "nanC"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := Number(text, fleet.Celsius); err == nil && (math.IsNaN(n) || math.IsInf(n, 0)) {
			t.Errorf("%q is %v", text, n)
		}
	})
}

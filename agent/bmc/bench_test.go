package bmc

import (
	"fmt"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// BenchmarkSteadySweep is what a lane adds to the network for one round of a
// monitor over 60 sensors: planning, decoding, choosing and reducing.
func BenchmarkSteadySweep(b *testing.B) {
	l := &Lane{cfg: Config{Node: "n1"}.withDefaults()}
	l.where = &places{root: &redfish.Root{}, system: "/s"}
	l.plan = &samplingPlan{until: time.Now().Add(time.Hour), traits: map[redfish.Link]sensor{}, chosen: map[string][]redfish.Link{}}
	bodies := map[redfish.Link][]byte{}
	for i := range 60 {
		id := fmt.Sprintf("temperature_cpu%d", i)
		uri := redfish.Link("/S/" + id)
		l.plan.members = append(l.plan.members, uri)
		bodies[uri] = fmt.Appendf(nil, `{"@odata.id":"%s","@odata.type":"#Sensor.v1_11_1.Sensor","Id":"%s","Name":"cpu%d","Reading":55.%d,"ReadingRangeMax":127.0,
			"ReadingRangeMin":-128.0,"ReadingType":"Temperature","ReadingUnits":"Cel","Status":{"Health":"OK","State":"Enabled"},
			"Thresholds":{"LowerCaution":{"Reading":5.0},"UpperCaution":{"Reading":90.0},"UpperCritical":{"Reading":100.0}}}`, uri, id, i, i)
	}
	e, _, _ := scl.Lookup("cpu.temp")
	ref := scl.Ref{Text: "cpu.temp", Element: e}
	closed := make(chan struct{})
	close(closed)
	b.ReportAllocs()
	for b.Loop() {
		v := l.view(Monitor)
		for uri, body := range bodies {
			v.memo[string(uri)] = &fetched{done: closed, body: body}
		}
		r, err := v.read(b.Context(), elements(), ref)
		if err != nil || len(r.Instances) != 60 {
			b.Fatal(err, len(r.Instances))
		}
	}
}

package ctl

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// What a wait saw is no table of readings: that it failed, and why, is what counts.
func TestAWaitIsAStep(t *testing.T) {
	hot := []fleet.Reading{{Node: "n1", Ref: "cpu.temp", Value: fleet.Number(58.4567, fleet.Celsius)}}
	var out bytes.Buffer
	cmd := &cobra.Command{}
	cmd.SetOut(&out)
	printResults(cmd, []fleet.Result{
		{Node: "n1", Step: "rule m1", Status: fleet.Confirmed, After: "in force"},
		{Node: "n1", Step: "(wait (> cpu.temp 50))", Status: fleet.Confirmed, Readings: hot},
		{Node: "n1", Step: "(wait (> cpu.temp 99))", Status: fleet.Failed, Error: "n1: it did not come true", Readings: hot},
		{Node: "n1", Step: "(show all cpu.temp)", Status: fleet.Confirmed, Readings: hot},
	})
	want := `NODE  STEP                    STATUS     DETAIL
n1    rule m1                 confirmed  in force
n1    (wait (> cpu.temp 50))  confirmed  cpu.temp=58.46C
n1    (wait (> cpu.temp 99))  failed     it did not come true
NODE  cpu.temp
n1    58.46C
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

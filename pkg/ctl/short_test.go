package ctl

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

func TestShortHasNoMoreThanAPersonReads(t *testing.T) {
	for _, c := range []struct {
		value fleet.Value
		want  string
	}{
		{fleet.Number(5271.917, fleet.RPM), "5272rpm"},
		{fleet.Number(17342.4, fleet.RPM), "17342rpm"},
		{fleet.Number(23.814, fleet.Celsius), "23.81C"},
		{fleet.Number(-7.25, fleet.Celsius), "-7.25C"},
		{fleet.Number(312.5, fleet.Watt), "312.5W"},
		{fleet.Number(0.8761, fleet.Volt), "0.876V"},
		{fleet.Number(500_107_862_016, fleet.Byte), "500.1GB"},
		{fleet.Number(0, fleet.RPM), "0rpm"},
		{fleet.Number(math.NaN(), fleet.RPM), "NaNrpm"},
		{fleet.Number(8, fleet.NoUnit), "8"},
		{fleet.Text("5271.917"), "5271.917"},
		{fleet.Bool(true), "#t"},
		{fleet.NoValue("no such sensor"), "—"},
	} {
		if diff := cmp.Diff(c.want, short(c.value)); diff != "" {
			t.Errorf("%v: %s", c.value, diff)
		}
	}
}

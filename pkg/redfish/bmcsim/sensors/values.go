package sensors

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// Number reads what a person types for a value in a unit, which may be left out.
func Number(value string, unit fleet.Unit) (float64, error) {
	n, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), unit.String()), 64)
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
		return 0, fmt.Errorf("%q is not a number in %s", value, unit)
	}
	return n, nil
}

// Reduce is one value for all instances: the sum of power, the slowest fan,
// the highest of the rest.
func Reduce(instances []fleet.Instance) fleet.Value {
	total, unit := math.NaN(), instances[0].Value.Unit()
	for _, in := range instances {
		n, _ := in.Value.Number()
		switch {
		case math.IsNaN(total):
			total = n
		case unit == fleet.Watt:
			total += n
		case unit == fleet.RPM:
			total = min(total, n)
		default:
			total = max(total, n)
		}
	}
	return fleet.Number(total, unit)
}

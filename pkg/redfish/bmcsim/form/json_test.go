package form

import (
	"encoding/json"
	"math"
	"testing"
)

// Clients read numbers as they stand: a double of bmcweb has a decimal point.
func TestReal(t *testing.T) {
	for want, v := range map[string]float64{
		"40.0": 40, "0.0": 0, "-128.0": -128, "40.125": 40.125, "null": math.NaN(), "100000000000000000000.0": 1e20, "0.001": 0.001,
	} {
		if got, err := json.Marshal(Real(v)); err != nil || string(got) != want {
			t.Errorf("%s %v, want %s", got, err, want)
		}
	}
}

func TestPrint(t *testing.T) {
	const want = "{\n  \"@odata.id\": \"/x\",\n  \"A\": [\n    1.0\n  ],\n  \"Html\": \"<&>\",\n  \"a\": {}\n}"
	if got := Print(map[string]any{"a": map[string]any{}, "A": []Real{1}, "@odata.id": "/x", "Html": "<&>"}); string(got) != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := Print(func() {}); got != nil {
		t.Errorf("what is no JSON is printed as %s", got)
	}
}

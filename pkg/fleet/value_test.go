package fleet_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

func TestValuesForPeople(t *testing.T) {
	tests := []struct {
		value fleet.Value
		want  string
	}{
		{fleet.Number(95, fleet.Celsius), "95C"},
		{fleet.Number(12.3456, fleet.Volt), "12.346V"},
		{fleet.Number(500e9, fleet.Byte), "500GB"},
		{fleet.Number(999, fleet.Byte), "999B"},
		{fleet.Number(2.1e16, fleet.Byte), "21PB"},
		{fleet.Number(3.2e9, fleet.Hertz), "3.2GHz"},
		{fleet.Number(-40, fleet.Celsius), "-40C"},
		{fleet.Number(7, fleet.NoUnit), "7"},
		{fleet.Number(80, fleet.Percent), "80%"},
		{fleet.Text("On"), "On"},
		{fleet.Bool(true), "#t"},
		{fleet.Bool(false), "#f"},
		{fleet.NoValue("no sensor"), "—"},
		{fleet.Value{}, "—"},
	}
	for _, test := range tests {
		if got := test.value.String(); got != test.want {
			t.Errorf("%#v is %q, want %q", test.value, got, test.want)
		}
	}
}

func TestUnknownIsNotZero(t *testing.T) {
	unknown := fleet.NoValue("the BMC reports none")
	if unknown.Known() || unknown.Equal(fleet.Number(0, fleet.NoUnit)) || unknown.Equal(fleet.Text("")) {
		t.Error("unknown equals a value")
	}
	if _, ok := unknown.Text(); ok {
		t.Error("the reason of an unknown value reads as a text")
	}
	if unknown.Why() != "the BMC reports none" || fleet.Text("x").Why() != "" {
		t.Error("only an unknown value has a reason")
	}
}

func TestUnitsReadBackAsWritten(t *testing.T) {
	for unit := fleet.NoUnit; unit <= fleet.Hertz; unit++ {
		if back, ok := fleet.ParseUnit(unit.String()); !ok || back != unit {
			t.Errorf("%q reads back as %v, %v", unit, back, ok)
		}
	}
	if _, ok := fleet.ParseUnit("furlong"); ok {
		t.Error("a furlong is no unit")
	}
}

// Every way a value can reach a person or a file goes through one of these.
func TestSecretShowsItselfNowhere(t *testing.T) {
	const canary = "canary-77"
	secret := fleet.NewSecret(canary)
	holder := struct{ Password fleet.Secret }{secret}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "a", secret, "b", holder)
	encoded, err := json.Marshal(map[string]any{"a": secret, "b": holder, "c": &secret})
	if err != nil {
		t.Fatal(err)
	}
	shown := fmt.Sprintf("%v %+v %#v %s %q %x %d %v %#v", secret, secret, secret, secret, secret, secret, secret, holder, &holder) +
		fmt.Sprint(secret, &secret) + secret.String() + string(encoded) + log.String()
	if strings.Contains(shown, canary) || strings.Contains(shown, fmt.Sprintf("%x", canary)) {
		t.Errorf("the secret is shown: %s", shown)
	}
	if secret.Reveal() != canary {
		t.Error("the secret is lost")
	}
}

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
		if got := c.value.Short(); got != c.want {
			t.Errorf("%v is %q, want %q", c.value, got, c.want)
		}
	}
}

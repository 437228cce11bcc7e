package main

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	const good = "console=ttyS4,115200n8 quiet bmc.name=bmc-1 bmc.ip=10.77.0.11/24 bmc.seed=00ff10 rdinit=/init\n"
	a, err := parse(good)
	if err != nil || a.name != "bmc-1" || a.ip.String() != "10.77.0.11/24" || string(a.seed) != "\x00\xff\x10" {
		t.Errorf("%+v, %v", a, err)
	}
	for _, c := range []struct{ from, to, want string }{
		{"bmc.name=bmc-1", "", "bmc.name, bmc.ip and bmc.seed are needed"},
		{"bmc.ip=10.77.0.11/24", "", "are needed"},
		{"bmc.seed=00ff10", "", "are needed"},
		{"00ff10", "xyz", "bmc.seed: "},
		{"10.77.0.11/24", "10.77.0.11", "bmc.ip: "},
	} {
		if _, err := parse(strings.Replace(good, c.from, c.to, 1)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("with %q for %q: %v, want %q", c.to, c.from, err, c.want)
		}
	}
}

package prom_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/obs/prom"
)

func TestPage(t *testing.T) {
	var p prom.Page
	p.Declare("b_total", prom.Counter, "second\nline \\ of help")
	p.Declare("a_celsius", prom.Gauge, "first in the alphabet")
	p.Declare("none", prom.Gauge, "without samples")
	for _, s := range []struct {
		name   string
		value  float64
		labels []string
		added  bool
	}{
		{"a_celsius", 21.5, []string{"node", "n1", "sensor", `the "hot" \ one` + "\n"}, true},
		{"a_celsius", 22, []string{"node", "n1", "sensor", `the "hot" \ one` + "\n"}, false}, // twice is refused by scrapers
		{"a_celsius", -3, []string{"node", "n1", "rack", "", "sensor", "caf\xe9"}, true},
		{"a_celsius", math.Inf(1), nil, true},
		{"b_total", 1e15, []string{"node", "n1", "odd"}, true},
		{"undeclared", 1, nil, false},
	} {
		if got := p.Add(s.name, s.value, s.labels...); got != s.added {
			t.Errorf("%s %v %q: added %v", s.name, s.value, s.labels, got)
		}
	}
	var text strings.Builder
	n, err := p.WriteTo(&text)
	want := `# HELP b_total second\nline \\ of help
# TYPE b_total counter
b_total{node="n1"} 1e+15
# HELP a_celsius first in the alphabet
# TYPE a_celsius gauge
a_celsius{node="n1",sensor="the \"hot\" \\ one\n"} 21.5
a_celsius{node="n1",sensor="caf` + "\ufffd" + `"} -3
a_celsius +Inf
`
	if diff := cmp.Diff(want, text.String()); diff != "" || err != nil || n != int64(len(want)) {
		t.Errorf("%d, %v (-want +got):\n%s", n, err, diff)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 3, errors.New("full") }

func TestWriteError(t *testing.T) {
	var p prom.Page
	p.Declare("a", prom.Gauge, "x")
	p.Add("a", 1)
	if n, err := p.WriteTo(full{}); n != 3 || err == nil {
		t.Errorf("%d, %v", n, err)
	}
}

// FuzzLabel: whatever a BMC calls its sensor, it stays one label of one line.
func FuzzLabel(f *testing.F) {
	f.Add(`a"} 1` + "\nother 2")
	f.Add(strings.Repeat("é", 200))
	f.Fuzz(func(t *testing.T, value string) {
		var p prom.Page
		p.Declare("a", prom.Gauge, "x")
		p.Add("a", 1, "sensor", value)
		var text strings.Builder
		if _, err := p.WriteTo(&text); err != nil {
			t.Fatal(err)
		}
		line, found := strings.CutPrefix(text.String(), "# HELP a x\n# TYPE a gauge\n")
		if !found || strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, " 1\n") {
			t.Fatalf("%q", line)
		}
		inside := strings.TrimSuffix(strings.TrimPrefix(line, `a{sensor="`), "\"} 1\n")
		plain := strings.NewReplacer(`\\`, "", `\"`, "", `\n`, "").Replace(inside)
		if value != "" && strings.ContainsAny(plain, `"\`) || len(inside) > 3*128+len(`a{sensor=""} 1`) {
			t.Fatalf("%q", line)
		}
	})
}

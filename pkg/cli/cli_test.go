package cli

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

func fixed() *Table {
	t := &Table{Columns: Columns("NAME", "STATE", "MODEL", "+SERIAL")}
	t.Add("r01-u01", Cell{Text: "ready", Colour: Good}, "A server with a very long name", 17)
	t.Add("r01-u02", Cell{Text: "unreachable", Colour: Bad}, "", "x\x1b[2Jy\nz")
	return t
}

func TestTable(t *testing.T) {
	for _, c := range []struct {
		name   string
		layout Layout
		want   string
	}{
		{"in a pipe nothing is cut", Layout{}, `
NAME     STATE        MODEL
r01-u01  ready        A server with a very long name
r01-u02  unreachable  -
`},
		{"on a terminal the widest column gives way", Layout{Screen: Screen{Terminal: true, Width: 40}}, `
NAME     STATE        MODEL
r01-u01  ready        A server with a v…
r01-u02  unreachable  -
`},
		{"wide is never cut, and nothing in it drives the terminal", Layout{Screen: Screen{Terminal: true, Width: 40}, Wide: true}, `
NAME     STATE        MODEL                           SERIAL
r01-u01  ready        A server with a very long name  17
r01-u02  unreachable  -                               x�[2Jy; z
`},
		{"colours don't move the columns", Layout{Screen: Screen{Terminal: true, Width: 80, Colour: true}, NoHeaders: true}, `
r01-u01  <32>ready<0>        A server with a very long name
r01-u02  <31>unreachable<0>  -
`},
		{"no column is cut to nothing", Layout{Screen: Screen{Terminal: true, Width: 3}, NoHeaders: true}, `
r01-u…  ready   A ser…
r01-u…  unrea…  -
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b bytes.Buffer
			fixed().Write(&b, c.layout)
			got := strings.NewReplacer("\x1b[", "<", "m", ">").Replace(b.String())
			got = strings.NewReplacer("na>e", "name").Replace(got)
			if !c.layout.Screen.Colour {
				got = b.String()
			}
			if diff := cmp.Diff(strings.TrimPrefix(c.want, "\n"), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	cause := errors.New("cause")
	for _, c := range []struct {
		err    error
		code   int
		report string
	}{
		{nil, OK, ""},
		{cause, Fail, "chiba: error: cause\n"},
		{&Exit{Code: Partly, Err: cause}, Partly, "chiba: error: cause\n"},
		{UsageError("no", "say yes"), Usage, "chiba: error: no\nchiba: hint: say yes\n"},
		{Silently(Partly), Partly, ""},
		{Silently(OK), OK, ""},
		{
			fault.New(fault.Garbage, "read", "two\nlines \x1b[2J").WithHint("look\x07"), Fail,
			"chiba: error: read: two; lines �[2J\nchiba: hint: look�\n",
		},
	} {
		var b bytes.Buffer
		Report(&b, c.err)
		if Code(c.err) != c.code || b.String() != c.report {
			t.Errorf("%v: code %d, report %q; want %d, %q", c.err, Code(c.err), b.String(), c.code, c.report)
		}
	}
}

func TestErrorsOfArgumentsAreUsageErrors(t *testing.T) {
	for _, args := range [][]string{{"one"}, {"one", "a", "b"}, {"--nope"}, {"wno"}, {"one", "a", "-o", "xml"}} {
		root := NewRoot()
		root.AddCommand(&cobra.Command{
			Use: "one", Args: cobra.ExactArgs(1), GroupID: GroupRun,
			RunE: func(*cobra.Command, []string) error { return nil },
		})
		checkArgs(root)
		root.SetArgs(args)
		if err := root.ExecuteContext(context.Background()); Code(err) != Usage || fault.HintOf(err) == "" {
			t.Errorf("%q: %v with hint %q, want a usage error with a hint", args, err, fault.HintOf(err))
		}
	}
}

func TestEncode(t *testing.T) {
	v := []struct {
		Name string `json:"name"`
		Text string `json:"text,omitempty"`
		N    any    `json:"size"`
	}{{Name: "<a>", N: 1.5}, {Name: "off", Text: "two\nlines"}}
	for f, want := range map[Format]string{
		JSONFormat: "[\n  {\n    \"name\": \"<a>\",\n    \"size\": 1.5\n  },\n  {\n    \"name\": \"off\",\n    \"text\": \"two\\nlines\",\n    \"size\": null\n  }\n]\n",
		YAMLFormat: "- name: <a>\n  size: 1.5\n- name: \"off\"\n  text: |-\n    two\n    lines\n  size: null\n",
	} {
		var b bytes.Buffer
		if err := Encode(&b, f, v); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, b.String()); diff != "" {
			t.Errorf("%s: %s", f, diff)
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain, ünïcode…":    "plain, ünïcode…",
		"a\tb":               "a b",
		"one\r\ntwo\n":       "one; two",
		"\x1b]0;title\x07":   "�]0;title�",
		"\u202edesrever":     "�desrever",
		"C1 \u009b31m":       "C1 �31m",
		"bad \xff byte \x1b": "bad � byte �",
	} {
		if got := Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
}

var start = time.Date(2026, 10, 15, 12, 0, 0, 0, time.UTC)

func TestProgressInAPipeIsALinePerEvent(t *testing.T) {
	var b bytes.Buffer
	p := NewProgress(&b, start)
	for _, bar := range []Bar{
		{Name: "r01", Note: "waiting"},
		{Name: "r01", Note: "waiting"},
		{Name: "r01", Total: 8, Note: "running"},
		{Name: "r01", Total: 8, Done: 3, Failed: 1, Note: "running"},
		{Name: "r01", Total: 8, Done: 4, Failed: 1, Note: "running"},
		{Name: "r01", Total: 8, Done: 8, Failed: 1},
		{Name: "r01", Total: 8, Done: 8, Failed: 1, Ended: true}, // says nothing new
	} {
		p.Set(bar)
		p.Draw(start)
	}
	p.Clear()
	want := `r01: waiting
r01: 0/8 done, running
r01: 3/8 done, 1 failed, running
r01: 8/8 done, 1 failed
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestProgressOnATerminalIsAPicture(t *testing.T) {
	var b bytes.Buffer
	p := &Progress{w: &b, start: start, screen: Screen{Terminal: true, Width: 57, Height: 24}}
	p.Set(Bar{Name: "r01", Total: 8, Done: 4, Note: "running"})
	p.Set(Bar{Name: "rack-02", Note: "waiting"})
	p.Draw(start.Add(10 * time.Second))
	p.Set(Bar{Name: "rack-02", Total: 2, Done: 1, Failed: 1, Note: "running"})
	p.Draw(start.Add(20 * time.Second))
	p.Clear()
	want := `r01      [##########..........] 4/8 done, running
rack-02  waiting
4/8 done, 0 failed, 10s, about 10s left
<up 3>
r01      [##########..........] 4/8 done, running
rack-02  [##########..........] 1/2 done, 1 failed, run…
5/10 done, 1 failed, 20s, about 20s left
<up 3>
`
	if diff := cmp.Diff(want, strings.ReplaceAll(b.String(), "\r\x1b[3A\x1b[J", "<up 3>\n")); diff != "" {
		t.Error(diff)
	}
}

func TestProgressFitsTheScreen(t *testing.T) {
	p := &Progress{start: start, screen: Screen{Terminal: true, Width: 40, Height: 6}}
	for _, name := range []string{"r01", "r02", "r03", "r04", "r05"} {
		p.Set(Bar{Name: name, Total: 2, Done: 2, Note: "done", Ended: name < "r04"})
	}
	want := []string{
		"r04  [####################] 2/2 done, …",
		"r05  [####################] 2/2 done, …",
		"r01  [####################] 2/2 done, …",
		"10/10 done, 0 failed, 1s (and 2 more)",
	}
	if diff := cmp.Diff(want, p.lines(start.Add(time.Second))); diff != "" {
		t.Error(diff)
	}
}

func TestAColumnThatIsKeptIsWhole(t *testing.T) {
	table := Table{Columns: Columns("=AT", "NODE", "DID")}
	table.Add("2026-10-15 12:00:00", "r01-u01", "it was switched off, and on again")
	var b bytes.Buffer
	table.Write(&b, Layout{Screen: Screen{Terminal: true, Width: 40}})
	want := `AT                   NODE     DID
2026-10-15 12:00:00  r01-u01  it was sw…
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

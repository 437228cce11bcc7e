package compile_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/compile"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares got with a file.
func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got); go test -update writes it anew:\n%s", name, diff)
	}
}

// sources calls f with each test source of a directory, and the name of its
// golden file.
func sources(t *testing.T, dir string, f func(t *testing.T, file, golden string, src []byte)) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", dir, "*.scl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no test sources in %s: %v", dir, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			f(t, filepath.Base(file), strings.TrimSuffix(file, ".scl")+".golden", src)
		})
	}
}

func TestErrors(t *testing.T) {
	sources(t, "errors", func(t *testing.T, file, name string, src []byte) {
		t.Helper()
		p, diags := compile.Source(file, src)
		if p != nil || diags.Errors() == 0 {
			t.Error("it compiles")
		}
		for _, d := range diags {
			if d.Help == "" {
				t.Errorf("no help: %s", d)
			}
		}
		if text := diags.String() + string(diags.JSON()); strings.Contains(text, "canary-") {
			t.Errorf("a password shows:\n%s", text)
		}
		golden(t, name, diags.String())
	})
}

func TestPrograms(t *testing.T) {
	sources(t, "programs", func(t *testing.T, file, name string, src []byte) {
		t.Helper()
		p, diags := compile.Source(file, src)
		if p == nil {
			t.Fatal(diags)
		}
		golden(t, name, describe(p)+diags.String())
	})
}

// describe tells a program in words.
func describe(p *scl.Program) string {
	var b strings.Builder
	if r := p.Rollout; r != nil {
		fmt.Fprintf(&b, "rollout %s: %d first, then %s at a time, %d at once in a rack, %s may fail, %s between\n",
			r.Name, r.Canary, r.Wave, r.Parallel, r.MaxFailures, r.Pause)
		fmt.Fprintf(&b, "  asks %q, holds when cut off: %v\n", r.Approve, r.Hold)
		if r.Healthy != nil {
			commands(&b, "  ends with ", []scl.Command{*r.Healthy})
		}
	}
	for _, g := range p.Groups {
		fmt.Fprintf(&b, "group %s: %s\n", g.Name, target(g.Members))
	}
	for _, c := range p.Configs {
		fmt.Fprintf(&b, "%s shall have\n", target(c.Target))
		for _, s := range c.Settings {
			fmt.Fprintf(&b, "  %s = %s\n", s.Path(), setting(s))
		}
	}
	for _, m := range p.Monitors {
		fmt.Fprintf(&b, "monitor %s watches %s\n  %s\n", m.Name, target(m.Target), options(m.Options))
		fmt.Fprintf(&b, "  when %s\n", condition(m.Condition))
		if names := m.ActsOn(); len(names) > 0 {
			fmt.Fprintf(&b, "  on %s\n", names)
		}
		commands(&b, "  ", m.Commands)
	}
	for _, t := range p.Trust {
		fmt.Fprintf(&b, "trust policy, ask %v, fresh for %s\n", t.Ask, t.Fresh)
		if t.Admit != nil {
			fmt.Fprintf(&b, "  lets in %s\n", condition(t.Admit))
		}
		if t.Refuse != nil {
			fmt.Fprintf(&b, "  keeps out %s\n", condition(t.Refuse))
		}
		if t.Approve > 0 {
			fmt.Fprintf(&b, "  asks %d people\n", t.Approve)
		}
		for _, a := range t.Assets {
			fmt.Fprintf(&b, "  asset %s: key %q, uuid %q, mac %q, serial %q, make %q, rack %q, position %q\n", a.Node, a.Key, a.UUID, a.MAC, a.Serial, a.Make, a.Rack, a.Position)
		}
		for _, r := range t.Require {
			fmt.Fprintf(&b, "  %s needs %s\n", r.Deed, r.Level)
		}
	}
	for _, s := range p.Steps {
		fmt.Fprintf(&b, "step %s\n  on %s\n", s.Text, target(s.Target))
		if s.Show != nil {
			fmt.Fprintf(&b, "  show %s\n", refs(s.Show.Refs))
		}
		if s.Dump != nil {
			fmt.Fprintf(&b, "  dump %s\n", s.Dump.Format)
		}
		if s.Refresh {
			fmt.Fprintf(&b, "  refresh\n")
		}
		commands(&b, "  ", s.Action)
	}
	return b.String()
}

func setting(s scl.Setting) string {
	switch {
	case s.Secret.Sealed != "":
		return "sealed " + s.Secret.Sealed
	case !s.Secret.None():
		return s.Secret.Literal.String()
	}
	return s.Value.String()
}

func options(o scl.Options) string {
	text := fmt.Sprintf("every %s, for %s, cooldown %s, %s", o.Every, o.For, o.Cooldown, o.Severity)
	if o.Limit.Count > 0 {
		text += fmt.Sprintf(", at most %d in %s", o.Limit.Count, o.Limit.Window)
	}
	if o.CutOff.Hold {
		text += ", holds when cut off"
	}
	if o.CutOff.RunFor > 0 {
		text += fmt.Sprintf(", runs for %s when cut off", o.CutOff.RunFor)
	}
	return text
}

func condition(c *scl.Condition) string {
	return c.Text + " reading " + refs(c.Refs)
}

func refs(all []scl.Ref) string {
	if len(all) == 0 {
		return "nothing in particular"
	}
	texts := make([]string, len(all))
	for i, r := range all {
		texts[i] = r.Text
		if r.Param != "" {
			texts[i] += " (" + r.Element.Name + " of " + r.Param + ")"
		}
		if r.URI != "" {
			texts[i] += " (" + r.Pointer + " in " + r.URI + ")"
		}
	}
	return strings.Join(texts, ", ")
}

func commands(b *strings.Builder, indent string, all []scl.Command) {
	for _, c := range all {
		fmt.Fprintf(b, "%sdo %s %q", indent, c.Verb, c.Args)
		if c.Once {
			b.WriteString(" once")
		}
		if c.Until != nil {
			fmt.Fprintf(b, " until %s, for %s at most", condition(c.Until), c.Timeout)
		}
		if c.Firmware != nil {
			fmt.Fprintf(b, " %+v within %s", *c.Firmware, c.Timeout)
		}
		fmt.Fprintf(b, " from %s\n", c.Text)
		commands(b, indent+"  ", c.Commands)
	}
}

func target(t scl.Target) string {
	of := make([]string, len(t.Of))
	for i, sub := range t.Of {
		of[i] = target(sub)
	}
	list := strings.Join(of, " ")
	switch t.Kind {
	case scl.TargetAll:
		return "everything"
	case scl.TargetName:
		return t.Name
	case scl.TargetGlob:
		return "glob:" + t.Name
	case scl.TargetGroup:
		return "group:" + t.Name
	case scl.TargetRack:
		return "rack:" + t.Name
	case scl.TargetSite:
		return "site:" + t.Name
	case scl.TargetWhere:
		return "where:" + t.Where.Text
	case scl.TargetAnd:
		return "all-of[" + list + "]"
	case scl.TargetOr:
		return "any-of[" + list + "]"
	case scl.TargetExcept:
		return "first-without-rest[" + list + "]"
	}
	return "?"
}

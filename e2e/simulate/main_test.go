package main

import (
	"bytes"
	"strings"
	"testing"
)

// What CI runs of the simulation: some seeds. Many: make simulate.
func TestSeeds(t *testing.T) {
	var out, said bytes.Buffer
	if code := run(t.Context(), []string{"-seeds", "6", "-agents", "4"}, &out, &said); code != 0 {
		t.Errorf("exit %d:\n%s", code, out.String())
	}
	if !strings.HasSuffix(out.String(), "seeds: 6 violations: 0\n") {
		t.Errorf("it says:\n%s", out.String())
	}
}

// A story can be read, and a seed tells the same one each time.
func TestStory(t *testing.T) {
	tell := func() string {
		var out bytes.Buffer
		if code := run(t.Context(), []string{"-seed", "3", "-v", "-agents", "3"}, &out, &out); code != 0 {
			t.Errorf("exit %d", code)
		}
		return out.String()
	}
	first := tell()
	for _, want := range []string{"a00 starts", "is welcomed by c", "FAULT", "all is healed", "seed 3:"} {
		if !strings.Contains(first, want) {
			t.Errorf("the story has no %q", want)
		}
	}
	if again := tell(); again != first {
		t.Error("the same seed tells another story")
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"-seed", "x"}, {"-nothing"}} {
		var out, said bytes.Buffer
		if code := run(t.Context(), args, &out, &said); code != 2 || said.Len() == 0 {
			t.Errorf("%v: exit %d, %q", args, code, said.String())
		}
	}
}

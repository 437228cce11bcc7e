package dev

import (
	"testing"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

func TestOnlyOneProcessPerPart(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lock(dir, "agent")
	if err != nil {
		t.Fatal(err)
	}
	if _, err = lock(dir, "agent"); !fault.Is(err, fault.Conflict) || fault.HintOf(err) == "" {
		t.Errorf("a second agent: %v, want a conflict with a hint", err)
	}
	other, err := lock(dir, "coordinator")
	if err != nil {
		t.Errorf("another part: %v", err)
	} else {
		other()
	}
	unlock()
	again, err := lock(dir, "agent")
	if err != nil {
		t.Errorf("after the first has ended: %v", err)
	} else {
		again()
	}
}

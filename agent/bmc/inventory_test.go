package bmc_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

// TestInventoryIsCheapTheSecondTime: everything is asked for again, and nothing is
// sent of what has not changed.
func TestInventoryIsCheapTheSecondTime(t *testing.T) {
	b, _, l := start(t, quick(func(c *bmcsim.Config) { c.DIMMs = 2 }))
	first, err := l.Inventory(t.Context())
	if err != nil || first.Cut != "" || len(first.Systems) != 1 || len(first.Memory) != 2 || len(first.Drives) != 1 {
		t.Fatalf("%+v, %v", first, err)
	}
	b.ResetStats()
	again, err := l.Inventory(t.Context())
	if err != nil || again.Digest() != first.Digest() {
		t.Fatalf("another digest, or %v", err)
	}
	sent, same := 0, 0
	for _, r := range b.Requests() {
		switch r.Status {
		case http.StatusNotModified:
			same++
		case http.StatusOK:
			sent++
		}
		if strings.Contains(r.Path, "/LogServices/") {
			t.Errorf("a log is no inventory: %s", r.Path)
		}
	}
	t.Logf("%d answers of 304, %d with a body", same, sent)
	if same < 4*sent || b.Stats().Writes != 0 || b.Stats().Logins != 0 {
		t.Errorf("%d answers of 304, %d with a body, %+v", same, sent, b.Stats())
	}
}

// TestInventoryIsWhatThereIsInTime: with the time over it is cut, and says so; what
// was not read is unknown, not gone.
func TestInventoryIsWhatThereIsInTime(t *testing.T) {
	b, _, l := start(t, quick())
	whole, err := l.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err = b.Fault(bmcsim.Fault{Kind: bmcsim.Slow, Delay: 200 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	cut, err := l.Inventory(ctx)
	if err != nil || !strings.Contains(cut.Cut, "time was over") || cut.Resources >= whole.Resources {
		t.Errorf("%+v, %v", cut, err)
	}
}

// TestASilentBMCHasNoInventory: nothing at all is an error, not an empty server.
func TestASilentBMCHasNoInventory(t *testing.T) {
	b, _, l := start(t, quick())
	if _, err := l.Inventory(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Fault(bmcsim.Fault{Kind: bmcsim.Drop}); err != nil {
		t.Fatal(err)
	}
	if inv, err := l.Inventory(t.Context()); err == nil {
		t.Errorf("no error, but %+v", inv)
	}
}

// TestInventoryHoldsNoPassword, wherever the BMC repeats it.
func TestInventoryHoldsNoPassword(t *testing.T) {
	b, _, l := start(t, quick())
	if err := b.Set("asset-tag", "x"+bmcsim.DefaultPassword); err != nil {
		t.Fatal(err)
	}
	inv, err := l.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	text, err := inv.JSON()
	if err != nil || strings.Contains(string(text), bmcsim.DefaultPassword) || !strings.Contains(string(text), "x(secret)") {
		t.Errorf("the password is in the inventory, or the tag is not: %v", err)
	}
}

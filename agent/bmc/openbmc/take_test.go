package openbmc_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

func TestAFreshBMCIsTakenOver(t *testing.T) {
	w := newWorld(t, bmcsim.Config{MustChange: true})
	if err := w.advance(); err != nil {
		t.Fatal(err)
	}
	want := "password account anchor request install prove strict weak-logins services root"
	if diff := cmp.Diff(want, strings.Join(w.did, " ")); diff != "" {
		t.Errorf("steps: %s\nlimits: %v", diff, w.trust().Limits)
	}
	got := w.trust()
	if got.Takeover != fleet.TakeoverStrict || !got.Done() || len(got.Weak) != 0 || !got.UniquePassword || !got.Own {
		t.Errorf("it is %+v", got)
	}
}

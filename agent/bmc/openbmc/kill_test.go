package openbmc_test

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/agent/takeover"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

// died is the end of a process at a place.
type died struct{ where string }

// dieAt ends the process at its nth chance: before or after a write to the BMC
// or to the disk. It reports false if there are fewer.
func (w *world) dieAt(n int) (where string, dead bool) {
	seen := 0
	w.disk.kill = func(at string) {
		if seen++; seen == n {
			panic(died{at})
		}
	}
	defer func() {
		w.disk.kill = nil
		if end, killed := recover().(died); killed {
			where, dead = end.where, true
		}
	}()
	w.finish()
	return "", false
}

// TestKilledAnywhere ends the process before and after everything that it writes,
// to the BMC or to its disk, and starts it again with nothing but the disk. It
// ends taken over each time, with no account or session too many.
func TestKilledAnywhere(t *testing.T) {
	for name, tc := range map[string]struct {
		sim  bmcsim.Config
		want fleet.Takeover
		step int // every how manyth chance
	}{
		"mutual TLS": {bmcsim.Config{MustChange: true}, fleet.TakeoverStrict, 1},
		"tokens":     {bmcsim.Config{WebUI: true}, fleet.TakeoverToken, 7},
	} {
		t.Run(name, func(t *testing.T) {
			chances := 0
			for n := 1; ; n += tc.step {
				dead := false
				t.Run(strconv.Itoa(n), func(t *testing.T) {
					w := newWorld(t, tc.sim)
					where, killed := w.dieAt(n)
					dead = killed
					w.start()
					w.finish()
					w.ours(tc.want)
					if have := w.members(truststore); len(have) != 1 {
						t.Errorf("anchors: %v", have)
					}
					if t.Failed() {
						t.Logf("it was killed %s", where)
					}
				})
				if !dead {
					break
				}
				chances++
			}
			if chances*tc.step < 40 {
				t.Errorf("there were only %d chances to kill it", chances)
			}
		})
	}
}

// TestKilledAnywhereOfARelease, likewise.
func TestKilledAnywhereOfARelease(t *testing.T) {
	for n := 1; ; n++ {
		dead := false
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			w := newWorld(t, bmcsim.Config{})
			w.finish()
			_ = w.disk.Keep(func(r takeover.Record) takeover.Record { return r.Release("sealed:Known-to-0wner") })
			var where string
			where, dead = w.dieAt(n)
			w.start()
			w.finish()
			if !w.trust().Released {
				t.Errorf("killed %s it is %+v", where, w.trust())
			}
			if status := w.stranger("GET", "root", "Known-to-0wner"); status != 200 {
				t.Errorf("killed %s its owner gets %d", where, status)
			}
			have := fmt.Sprint(w.members("/redfish/v1/AccountService/Accounts"), w.members(truststore))
			if diff := cmp.Diff("[root] []", have); diff != "" {
				t.Errorf("killed %s it leaves %s", where, diff)
			}
		})
		if !dead {
			break
		}
	}
}

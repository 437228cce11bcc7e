package sim

import (
	"flag"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "write the expected output in testdata anew")

// TestScripts plays testdata/*.txtar. Beside every script runs a rack whose
// state is in $WORK/st.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata", UpdateScripts: *update, RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			r, err := Open(t.Context(), Config{Dir: filepath.Join(env.WorkDir, "st"), Specs: DevRack(), Quiet: true})
			if err != nil {
				return err
			}
			for _, u := range r.units {
				for _, ref := range []string{"cpu.power", "cpu.rate", "cpu.temp", "fan.speed", "power.watts", "temp.exhaust", "temp.inlet"} {
					if err := u.bmc.Set(ref, "40"); err != nil {
						return err
					}
				}
			}
			env.Defer(run(t, r))
			env.Setenv("GORACE", "atexit_sleep_ms=0") // else every command ends a second late
			return nil
		},
	})
}

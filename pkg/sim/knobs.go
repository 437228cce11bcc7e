package sim

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

// knobs make all BMCs of a rack alike in what a measurement needs.
type knobs struct {
	sensors    int
	atOnce     int
	expand     bool
	transition time.Duration
}

func (k *knobs) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.IntVar(&k.sensors, "sensors", 0, "give every server `N` sensors, by the number of its processors and fans")
	f.IntVar(&k.atOnce, "at-once", 0, "let every BMC serve `N` requests at a time (0: as many as come)")
	f.BoolVar(&k.expand, "expand", false, "answer $expand, which OpenBMC's usual build does not")
	f.DurationVar(&k.transition, "transition", 0, "`TIME` that powering on or off takes (0: 2s)")
}

// minSensors are those of a server with eight processors and a fan.
const minSensors = 28

// shape is what the knobs do to a BMC.
func (k *knobs) shape() (func(*bmcsim.Config), error) {
	if k.sensors != 0 && (k.sensors < minSensors || k.sensors > 500) {
		return nil, cli.UsageError(fmt.Sprintf("--sensors %d: from %d to 500 can be simulated", k.sensors, minSensors), "")
	}
	if k.atOnce < 0 || k.transition < 0 {
		return nil, cli.UsageError("--at-once and --transition can't be negative", "")
	}
	return func(c *bmcsim.Config) {
		if k.sensors > 0 {
			c.CPUs, c.Fans = 8, k.sensors-minSensors+1
		}
		c.Concurrency, c.Expand = k.atOnce, k.expand
		if k.transition > 0 {
			c.Transition = k.transition
		}
	}, nil
}

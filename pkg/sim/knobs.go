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
	failDelay  time.Duration
	resetTime  time.Duration
	epoch      bool
	webUI      bool
	volatile   bool
}

func (k *knobs) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.IntVar(&k.sensors, "sensors", 0, "give every server `N` sensors, by the number of its processors and fans")
	f.IntVar(&k.atOnce, "at-once", 0, "let every BMC serve `N` requests at a time (0: as many as come)")
	f.BoolVar(&k.expand, "expand", false, "answer $expand, which OpenBMC's usual build does not")
	f.DurationVar(&k.transition, "transition", 0, "`TIME` that powering on or off takes (0: 2s)")
	f.DurationVar(&k.failDelay, "fail-delay", 0, "`TIME` that a failed login blocks a BMC, real ones: 2s")
	f.DurationVar(&k.resetTime, "reset-time", 0, "`TIME` that a BMC is away when it is reset, real ones: 3m (0: never)")
	f.BoolVar(&k.epoch, "epoch", false, "start the clocks of new BMCs in 1970")
	f.BoolVar(&k.webUI, "web-ui", false, "ask no client for a certificate, as a build with the web interface")
	f.BoolVar(&k.volatile, "volatile", false, "keep nothing on disk: every start has new BMCs")
}

// minSensors are those of a server with eight processors and a fan.
const minSensors = 28

// shape is what the knobs do to a BMC.
func (k *knobs) shape() (func(*bmcsim.Config), error) {
	if k.sensors != 0 && (k.sensors < minSensors || k.sensors > 500) {
		return nil, cli.UsageError(fmt.Sprintf("--sensors %d: from %d to 500 can be simulated", k.sensors, minSensors), "")
	}
	if k.atOnce < 0 || min(k.transition, k.failDelay, k.resetTime) < 0 {
		return nil, cli.UsageError("--at-once and times can't be negative", "")
	}
	return func(c *bmcsim.Config) {
		if k.sensors > 0 {
			c.CPUs, c.Fans = 8, k.sensors-minSensors+1
		}
		c.Concurrency, c.Expand = k.atOnce, k.expand
		c.FailDelay, c.ResetTime, c.Epoch, c.WebUI = k.failDelay, k.resetTime, k.epoch, k.webUI
		if k.volatile {
			c.StateFile = ""
		}
		if k.transition > 0 {
			c.Transition = k.transition
		}
	}, nil
}

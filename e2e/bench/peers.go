package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"time"

	"github.com/stmcginnis/gofish"
	"github.com/stmcginnis/gofish/schemas"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/sim"
)

// gofishWorker does the work as gofish's examples do: connect, walk, act, log
// out. Tuned, it keeps its connection, asks four at a time and for expanded
// collections.
type gofishWorker struct {
	node  sim.Node
	tuned bool
}

func (*gofishWorker) prepare(context.Context, string) error { return nil }
func (*gofishWorker) close(context.Context) error           { return nil }

func (w *gofishWorker) do(ctx context.Context, work string) error {
	transport := pinned(w.node)
	defer transport.CloseIdleConnections()
	config := gofish.ClientConfig{
		Endpoint: "https://" + w.node.Address, Username: "root", Password: bmcsim.DefaultPassword,
		HTTPClient: &http.Client{Transport: transport},
	}
	if w.tuned {
		config.ReuseConnections, config.MaxConcurrentRequests, config.AutoExpand = true, 4, true
	}
	c, err := gofish.ConnectContext(ctx, config)
	if err != nil {
		return err
	}
	defer c.Logout()
	if work == workW1 {
		return restart(c)
	}
	return sensors(c)
}

func restart(c *gofish.APIClient) error {
	systems, err := c.Service.Systems()
	if err != nil || len(systems) == 0 {
		return errors.Join(err, errors.New("no system"))
	}
	err = systems[0].SetBoot(&schemas.Boot{
		BootSourceOverrideTarget: schemas.PxeBootSource, BootSourceOverrideEnabled: schemas.OnceBootSourceOverrideEnabled,
	})
	if err != nil {
		return err
	}
	_, err = systems[0].Reset(schemas.ForceRestartResetType)
	return err
}

func sensors(c *gofish.APIClient) error {
	all, err := c.Service.Chassis()
	if err != nil || len(all) == 0 {
		return errors.Join(err, errors.New("no chassis"))
	}
	list, err := all[0].Sensors()
	if err == nil && len(list) < sensorCount {
		err = fmt.Errorf("only %d sensors", len(list))
	}
	return err
}

// installed reports why a command can't be used: it is not there, or it can do
// W1 alone.
func installed(name string, args ...string) func(string) string {
	return func(work string) string {
		if work != workW1 {
			return "only W1 is done with it"
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := exec.CommandContext(ctx, name, args...).Run(); err != nil { //nolint:gosec // the names stand in tools
			return "not installed"
		}
		return ""
	}
}

// command is a tool that runs as a process for each BMC. It can't be given a
// pin, so that it verifies nothing: what it saves by that is its own.
type command struct {
	node sim.Node
	w1   func(ctx context.Context, address string) []*exec.Cmd
}

func (command) prepare(context.Context, string) error { return nil }
func (command) close(context.Context) error           { return nil }

func (c command) do(ctx context.Context, _ string) error {
	for _, cmd := range c.w1(ctx, c.node.Address) {
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %.200s", err, out)
		}
	}
	return nil
}

func redfishtool(ctx context.Context, address string) []*exec.Cmd {
	run := func(args ...string) *exec.Cmd {
		args = append([]string{"-r", address, "-u", "root", "-p", bmcsim.DefaultPassword, "-S", "Always", "Systems", "-1"}, args...)
		return exec.CommandContext(ctx, "redfishtool", args...) //nolint:gosec // the password is the simulator's, which everybody knows
	}
	return []*exec.Cmd{run("setBootOverride", "Once", "Pxe"), run("reset", "ForceRestart")}
}

const sushyScript = `
import sys, sushy
s = sushy.Sushy('https://' + sys.argv[1], sys.argv[2], sys.argv[3], verify=False)
c = s.get_system_collection().get_members()[0]
c.set_system_boot_options(sushy.BOOT_SOURCE_TARGET_PXE, enabled=sushy.BOOT_SOURCE_ENABLED_ONCE)
c.reset_system(sushy.RESET_FORCE_RESTART)
`

func sushy(ctx context.Context, address string) []*exec.Cmd {
	return []*exec.Cmd{exec.CommandContext(ctx, "python3", "-c", sushyScript, address, "root", bmcsim.DefaultPassword)} //nolint:gosec // as above
}

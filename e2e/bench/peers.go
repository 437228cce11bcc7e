package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/stmcginnis/gofish"
	"github.com/stmcginnis/gofish/schemas"

	"github.com/chiba-mesh/chiba/pkg/sim"
)

// gofishWorker does the work as gofish's examples do: connect, walk, act, log
// out. Tuned, it keeps its connection, asks four at a time and for expanded
// collections. Kept, it is connected before the clock starts, and logs out after it
// has stopped.
type gofishWorker struct {
	node      sim.Node
	tuned     bool
	start     start
	transport *http.Transport
	api       *gofish.APIClient
}

func (w *gofishWorker) prepare(ctx context.Context, _ string) error {
	if w.start == cold {
		return nil
	}
	return w.connect(ctx)
}

func (w *gofishWorker) close(context.Context) error {
	if w.start == kept {
		w.leave()
	}
	return nil
}

func (w *gofishWorker) leave() {
	w.api.Logout()
	w.transport.CloseIdleConnections()
}

func (w *gofishWorker) do(ctx context.Context, work string) error {
	if w.start == cold {
		if err := w.connect(ctx); err != nil {
			return err
		}
		defer w.leave()
	}
	if work == workW1 {
		return restart(w.api)
	}
	return sensors(w.api)
}

func (w *gofishWorker) connect(ctx context.Context) (err error) {
	w.transport = pinned(w.node)
	config := gofish.ClientConfig{
		Endpoint: "https://" + w.node.Address, Username: "root", Password: rootPassword,
		HTTPClient: &http.Client{Transport: w.transport},
	}
	if w.tuned {
		config.ReuseConnections, config.MaxConcurrentRequests, config.AutoExpand = true, 4, true
	}
	w.api, err = gofish.ConnectContext(ctx, config)
	return err
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

const onlyW1 = "only W1 is done with it"

// redfishtoolThere says why redfishtool can't be used, "" if it can.
func redfishtoolThere(work string) string {
	switch {
	case work != workW1:
		return onlyW1
	case !runs("redfishtool", "-V"):
		return "not installed: apt install redfishtool"
	}
	return ""
}

// sushyThere says why sushy can't be used, "" if it can.
func sushyThere(work string) string {
	switch {
	case work != workW1:
		return onlyW1
	case sushyPython() == "":
		return "not installed: apt install python3-sushy"
	}
	return ""
}

// sushyPython is a python that has sushy: the first in the path, or the system's.
func sushyPython() string {
	for _, python := range []string{"python3", "/usr/bin/python3"} {
		if runs(python, "-c", "import sushy") {
			return python
		}
	}
	return ""
}

// runs reports whether a command ends well.
func runs(name string, args ...string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return exec.CommandContext(ctx, name, args...).Run() == nil //nolint:gosec // the names stand here
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
		args = append([]string{"-r", address, "-u", "root", "-p", rootPassword, "-S", "Always", "Systems", "-1"}, args...)
		return exec.CommandContext(ctx, "redfishtool", args...) //nolint:gosec // the password is the simulator's, which everybody knows
	}
	return []*exec.Cmd{run("setBootOverride", "Once", "Pxe"), run("reset", "ForceRestart")}
}

// sushyScript imports what it needs, waits for a line, and does W1 on all BMCs with
// a thread for each.
const sushyScript = `
import sys, sushy, urllib3
from concurrent.futures import ThreadPoolExecutor
urllib3.disable_warnings()
def w1(address):
    s = sushy.Sushy('https://' + address, sys.argv[1], sys.argv[2], verify=False)
    c = s.get_system_collection().get_members()[0]
    c.set_system_boot_options(sushy.BOOT_SOURCE_TARGET_PXE, enabled=sushy.BOOT_SOURCE_ENABLED_ONCE)
    c.reset_system(sushy.RESET_FORCE_RESTART)
sys.stdin.readline()
with ThreadPoolExecutor(40) as pool:
    list(pool.map(w1, sys.argv[3:]))
`

// sushy is one Python process for all BMCs, which has started before the clock.
type sushy struct {
	addresses []string
	begin     sync.Once
	work      sync.Once
	cmd       *exec.Cmd
	stdin     io.WriteCloser
	said      bytes.Buffer
	err       error
}

// sushyWorker is one BMC's share of it.
type sushyWorker struct{ all *sushy }

func (s *sushy) worker(n sim.Node) (worker, error) {
	s.addresses = append(s.addresses, n.Address)
	return sushyWorker{s}, nil
}

func (w sushyWorker) prepare(ctx context.Context, _ string) error {
	s := w.all
	s.begin.Do(func() {
		args := append([]string{"-c", sushyScript, "root", rootPassword}, s.addresses...)
		s.cmd = exec.CommandContext(ctx, sushyPython(), args...) //nolint:gosec // the password is the simulator's, which everybody knows
		// A bundle of CAs that is set here would overrule verify=False.
		s.cmd.Env = append(os.Environ(), "REQUESTS_CA_BUNDLE=", "CURL_CA_BUNDLE=")
		s.cmd.Stderr = &s.said
		if s.stdin, s.err = s.cmd.StdinPipe(); s.err == nil {
			s.err = s.cmd.Start()
		}
	})
	return errors.Join(s.err, settle(ctx)) // it imports meanwhile
}

func (w sushyWorker) do(context.Context, string) error {
	s := w.all
	s.work.Do(func() {
		_, err := io.WriteString(s.stdin, "go\n")
		if s.err = errors.Join(err, s.cmd.Wait()); s.err != nil {
			s.err = fmt.Errorf("%w: %s", s.err, lastLine(s.said.String()))
		}
	})
	return s.err
}

func (sushyWorker) close(context.Context) error { return nil }

// lastLine is where Python says what went wrong.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

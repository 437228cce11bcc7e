package bench

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/sim"
)

// laneWorker is Chiba: an agent's lane to the BMC. Kept means that the agent has
// looked at the BMC, as one that runs does once a minute.
type laneWorker struct {
	lane  *bmc.Lane
	start start
	refs  []scl.Ref
}

// vault is what an agent keeps on disk, in memory.
type vault struct{}

func (vault) Candidates(string) ([]redfish.Credentials, error) {
	return []redfish.Credentials{{User: "root", Password: fleet.NewSecret(rootPassword)}}, nil
}
func (vault) Prove(string, redfish.Credentials) error   { return nil }
func (vault) Propose(string, redfish.Credentials) error { return nil }

// No earlier life has left a session open.
func (vault) Save(string, string) error         { return nil }
func (vault) Load(string) (string, bool, error) { return "", false, nil }
func (vault) Forget(string) error               { return nil }

func newLane(n sim.Node, from start) (worker, error) {
	l, err := bmc.New(bmc.Config{
		Node: n.Name, Vault: vault{}, Poll: 100 * time.Millisecond,
		BMC: redfish.Config{
			BMC: string(n.Name), Address: n.Address, Pin: n.Pin, Sessions: vault{}, Context: "chiba:bench",
			Limits: redfish.Limits{Read: time.Minute, Write: time.Minute},
		},
	})
	if err != nil {
		return nil, err
	}
	w := &laneWorker{lane: l, start: from}
	// Together they are all sensors that the simulated server has.
	for _, name := range []string{"temp.max", "cpu.temp", "cpu.power", "cpu.rate", "fan.speed", "temp.inlet", "temp.exhaust", "power.watts"} {
		e, param, found := scl.Lookup(name)
		if !found {
			return nil, fault.New(fault.Internal, "measure", "there is no element "+name)
		}
		w.refs = append(w.refs, scl.Ref{Text: name, Element: e, Param: param})
	}
	return w, nil
}

func (w *laneWorker) prepare(ctx context.Context, work string) error {
	if work == workW1 {
		if err := settle(ctx); err != nil {
			return err
		}
	}
	switch {
	case w.start == cold:
		return nil
	case work == workW1:
		_, err := w.lane.Summary(ctx)
		return err
	}
	return w.sweep(ctx)
}

func (w *laneWorker) do(ctx context.Context, work string) error {
	if work == workW1 {
		return w.restart(ctx)
	}
	return w.sweep(ctx)
}

// restart does W1 as an agent does: the two as one, else one after the other.
func (w *laneWorker) restart(ctx context.Context) error {
	boot := scl.Command{Verb: scl.DoBoot, Args: []string{"pxe"}, Once: true, Text: "boot pxe once"}
	reset := scl.Command{Verb: scl.DoPower, Args: []string{"reset"}, Text: "power reset"}
	results, err := w.lane.BootAndRestart(ctx, boot, reset, func(fleet.Result) error { return nil })
	if err != nil {
		return err
	}
	for _, cmd := range []scl.Command{boot, reset}[len(results):] {
		results = append(results, w.lane.Do(ctx, cmd))
	}
	for _, r := range results {
		if !r.Status.OK() {
			return fmt.Errorf("%s: %s: %s", r.Step, r.Status, r.Error)
		}
	}
	if last := results[len(results)-1]; last.Status != fleet.Confirmed {
		return fmt.Errorf("%s: %s: %s", last.Step, last.Status, last.Error)
	}
	return nil
}

func (w *laneWorker) sweep(ctx context.Context) error {
	readings, err := w.lane.Read(ctx, bmc.Monitor, w.refs)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, r := range readings {
		for _, in := range r.Instances {
			seen[strings.ToLower(in.Name)] = true
		}
		if !r.Value.Known() {
			return fmt.Errorf("%s: %s", r.Ref, r.Value.Why())
		}
	}
	if len(seen) < 10 {
		return fmt.Errorf("only %d sensors were read", len(seen))
	}
	return nil
}

func (w *laneWorker) close(ctx context.Context) error { return w.lane.Close(ctx) }

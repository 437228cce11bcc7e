//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/e2e/qemu/l2"
)

// line drives the whole line, step by step.
func (w *world) line(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		w.power, w.coordinate, w.join, w.takeOver, w.apply, w.reset, w.partition,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// power switches the guests on and waits until they serve.
func (w *world) power(ctx context.Context) error {
	w.say("%d guests are switched on, on a segment of their own with our interface %s", len(w.guests), segment)
	for i, g := range w.guests {
		if err := w.equip(ctx, &g.machine); err != nil {
			return err
		}
		started, err := w.start(g.machine, g.cable)
		if err != nil {
			return err
		}
		w.guests[i] = started
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return bootAll(ctx, w.guests, w.teller)
}

// coordinate starts the coordinator. `chiba dev` does it, because it also makes
// everybody's credentials.
func (w *world) coordinate(ctx context.Context) error {
	p, err := w.launch("coordinator", "dev", "--only", "coordinator", "--state", fleetDir)
	if err != nil {
		return err
	}
	_, _, err = p.Wait(ctx, 0, "ready in")
	if err == nil {
		w.say("the coordinator is ready")
	}
	return err
}

// candidate is what `chiba discover` found.
type candidate struct {
	Addresses, Names, Found []string
	Pin                     string
}

// discover waits until every guest is found by both its addresses, and returns them in
// their order.
func (w *world) discover(ctx context.Context) ([]candidate, error) {
	found := make([]candidate, len(w.guests))
	err := w.until(ctx, "find every guest over mDNS", func(ctx context.Context) (bool, string, error) {
		var all []candidate
		if err := w.decode(ctx, &all, "discover", "--interface", segment); err != nil {
			return false, "", err
		}
		missing := 0
		for i, g := range w.guests {
			at := g.among(all)
			if at < 0 {
				missing++
				continue
			}
			found[i] = all[at]
		}
		return missing == 0, fmt.Sprintf("%+v", all), nil
	})
	return found, err
}

// among is which candidate the guest is, -1 if it is not there whole: it must have been
// heard over mDNS and answer at its IPv4 and its link-local IPv6 address. A real image
// has no address of ours, and is the only one there.
func (g *guest) among(all []candidate) int {
	for i, c := range all {
		addresses := strings.Join(c.Addresses, " ")
		if c.Pin == "" || !strings.Contains(addresses, "[fe80::") {
			continue
		}
		if g.image != "" || strings.Contains(addresses, g.ip.Addr().String()+":443") && strings.Contains(strings.Join(c.Found, " "), "mdns") {
			return i
		}
	}
	return -1
}

// join finds the guests as a person would, and starts an agent that knows them by the
// keys they showed.
func (w *world) join(ctx context.Context) error {
	found, err := w.discover(ctx)
	if err != nil {
		return err
	}
	if err = w.do(ctx, "discover", "--interface", segment); err != nil {
		return err
	}
	dir, err := w.agentConfig(found)
	if err != nil {
		return err
	}
	if _, err = w.launch("agent", "agent", "--state", dir); err != nil {
		return err
	}
	return w.ready(ctx)
}

// node is what `chiba get nodes` says of one.
type node struct{ Name, State, Reason string }

// state is a node's state as the fleet has it.
func (w *world) state(ctx context.Context, name string) (node, error) {
	var all []node
	if err := w.decode(ctx, &all, "get", "nodes"); err != nil {
		return node{}, err
	}
	for _, n := range all {
		if n.Name == name {
			return n, nil
		}
	}
	return node{Name: name, State: "not there"}, nil
}

// becomes waits until a node is in that state.
func (w *world) becomes(ctx context.Context, name, state string) error {
	return w.until(ctx, name+" becomes "+state, func(ctx context.Context) (bool, string, error) {
		n, err := w.state(ctx, name)
		return n.State == state, fmt.Sprintf("%s: %s %s", name, n.State, n.Reason), err
	})
}

// ready waits until the agent works with every guest.
func (w *world) ready(ctx context.Context) error {
	for _, g := range w.guests {
		if err := w.becomes(ctx, g.name, "ready"); err != nil {
			return err
		}
	}
	return w.do(ctx, "get", "nodes")
}

// owned is what `chiba get bmcs` says of one BMC.
type owned struct {
	Node, Takeover, Quarantine string
	Done                       bool
	Ours                       bool    `json:"certificate_ours"`
	UniquePassword             bool    `json:"unique_password"`
	ClockOff                   float64 `json:"clock_off_seconds"`
	Open, Limits               []string
}

// whole reports whether it is taken over with nothing left to do: only a certificate of
// the rack lets anybody in, and its clock is right.
func (o owned) whole() bool {
	const slack = 120 // seconds
	return o.Done && o.Takeover == "mtls-strict" && o.Ours && o.UniquePassword && len(o.Open)+len(o.Limits) == 0 &&
		o.Quarantine == "" && o.ClockOff < slack && o.ClockOff > -slack
}

// takeOver has the agent make every BMC the rack's own, if that is asked for; else it
// stays logged in with the factory's password.
func (w *world) takeOver(ctx context.Context) error {
	if !w.takeover {
		w.say("no BMC is taken over: the agent is logged in with the factory's password (-takeover)")
		return nil
	}
	err := w.until(ctx, "every BMC is taken over, with the right clock", func(ctx context.Context) (bool, string, error) {
		var all []owned
		if err := w.decode(ctx, &all, "get", "bmcs"); err != nil {
			return false, "", err
		}
		done := 0
		for _, o := range all {
			if o.whole() {
				done++
			}
		}
		return done == len(w.guests), fmt.Sprintf("%+v", all), nil
	})
	if err != nil {
		return err
	}
	w.say("the BMCs are the rack's own: only a certificate of the rack is let in")
	return w.do(ctx, "get", "bmcs")
}

// script is what is put into force: a setting on all, and a rule whose firing shows that
// it is in force.
const script = `; In force on every BMC of the segment, over its resets.
(config "all" (asset-tag "e2e"))
(monitor "bmc-1" (every 2s) (cooldown 1s)
  (condition (= system.led "on"))
  (action (log "the light is on")))
`

// apply puts the script into force and shows that a second plan finds nothing to do.
func (w *world) apply(ctx context.Context) error {
	if err := os.WriteFile("rack.scl", []byte(script), 0o600); err != nil {
		return err
	}
	if err := w.do(ctx, "apply", "rack.scl", "--yes"); err != nil {
		return err
	}
	if err := w.do(ctx, "show", "all", "system.asset-tag", "bmc.version", "power.state", "cpu.temp"); err != nil {
		return err
	}
	return w.inForce(ctx)
}

// inForce shows that the script is in force: its settings are as it says, and its rule
// fires when the light goes on.
func (w *world) inForce(ctx context.Context) error {
	out, err := w.run(ctx, "plan", "rack.scl")
	if err != nil {
		return err
	}
	if !strings.Contains(out, "no change") {
		return fmt.Errorf("the script is not in force, a plan says:\n%s", indent(out))
	}
	before, err := w.firings(ctx)
	if err != nil {
		return err
	}
	err = w.until(ctx, "the rule fires", func(ctx context.Context) (bool, string, error) {
		for _, to := range []string{"off", "on"} {
			if why := w.light(ctx, to); why != nil {
				return false, why.Error(), nil //nolint:nilerr // the BMC may only just be back: look again
			}
			<-time.After(unmissed)
		}
		now, askErr := w.firings(ctx)
		return now > before, fmt.Sprintf("%d firings", now), askErr
	})
	if err == nil {
		w.say("the script is in force: a plan finds no change, and its rule fired when the light of %s went on", w.guests[0].name)
	}
	return err
}

// unmissed is how long the light stays as it is, so that the rule, which looks every two
// seconds, sees it: it acts again only once it has seen the light off.
const unmissed = 6 * time.Second

// light switches a light that the rule watches.
func (w *world) light(ctx context.Context, to string) error {
	return w.act(ctx, fmt.Sprintf("(set-indicator %s)", to))
}

// act does something once on the first guest.
func (w *world) act(ctx context.Context, command string) error {
	text := fmt.Sprintf("(action %q %s)\n", w.guests[0].name, command)
	if err := os.WriteFile("once.scl", []byte(text), 0o600); err != nil {
		return err
	}
	w.say("$ chiba apply once.scl --yes     # %s", strings.TrimSpace(text))
	_, err := w.run(ctx, "apply", "once.scl", "--yes")
	return err
}

func (w *world) firings(ctx context.Context) (int, error) {
	var all []struct{ Node string }
	err := w.decode(ctx, &all, "get", "firings")
	return len(all), err
}

// clock is what a BMC's clock says.
func (w *world) clock(ctx context.Context, g *guest) (string, error) {
	var all []struct{ Value string }
	err := w.decode(ctx, &all, "show", g.name, `(redfish "/redfish/v1/Managers/bmc#/DateTime")`)
	if err == nil && len(all) != 1 {
		err = fmt.Errorf("%s shows %d clocks", g.name, len(all))
	}
	if err != nil {
		return "", err
	}
	return all[0].Value, nil
}

// repaired waits until somebody has set a BMC's clock, and says to what.
func (w *world) repaired(ctx context.Context, g *guest) (at string, err error) {
	err = w.until(ctx, "the clock of "+g.name+" is set", func(ctx context.Context) (bool, string, error) {
		var askErr error
		at, askErr = w.clock(ctx, g)
		then, parseErr := time.Parse(time.RFC3339, at)
		return parseErr == nil && time.Since(then).Abs() < 2*time.Minute, at, askErr
	})
	return at, err
}

// reset restarts a BMC with a script; the machine really restarts, and wakes up in 1970.
func (w *world) reset(ctx context.Context) error {
	g := w.guests[0]
	from := g.console.Lines()
	if err := w.act(ctx, "(bmc-reset)"); err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := g.boot(waiting, w.teller, from); err != nil {
		return err
	}
	return w.recovered(ctx, g)
}

// recovered shows that the agent works with a BMC as before.
func (w *world) recovered(ctx context.Context, g *guest) error {
	if err := w.becomes(ctx, g.name, "ready"); err != nil {
		return err
	}
	var at string
	err := w.until(ctx, g.name+" answers again", func(ctx context.Context) (bool, string, error) {
		var why error // the agent may not have noticed yet that it was away
		at, why = w.clock(ctx, g)
		return why == nil, fmt.Sprint(why), nil
	})
	if err != nil {
		return err
	}
	w.say("%s is ready again, its clock says %s", g.name, at)
	if w.takeover {
		if at, err = w.repaired(ctx, g); err != nil {
			return err
		}
		w.say("the agent has set the clock of %s: %s", g.name, at)
	}
	return w.inForce(ctx)
}

// partition cuts the cable of one BMC and heals it: no other is harmed.
func (w *world) partition(ctx context.Context) error {
	cut := w.guests[0]
	cut.cable.Set(l2.Cable{Cut: true})
	w.say("the cable of %s is cut", cut.name)
	if err := w.becomes(ctx, cut.name, "unreachable"); err != nil {
		return err
	}
	if err := w.do(ctx, "get", "nodes"); err != nil {
		return err
	}
	for _, g := range w.guests[1:] {
		if err := w.do(ctx, "show", g.name, "power.state", "cpu.temp"); err != nil {
			return errors.Join(fmt.Errorf("%s is harmed by the cut of %s", g.name, cut.name), err)
		}
	}
	cut.cable.Set(l2.Cable{})
	w.say("the cable of %s is healed", cut.name)
	if err := w.becomes(ctx, cut.name, "ready"); err != nil {
		return err
	}
	return w.inForce(ctx)
}

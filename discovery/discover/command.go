// Package discover is the command `chiba discover`: it looks for BMCs for a short
// while and says what it has found and why. It needs no mesh and no state, sends
// no credential to anybody, and asks each address that was hinted at once.
package discover

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/discovery/link"
	"github.com/chiba-mesh/chiba/discovery/mdns"
	"github.com/chiba-mesh/chiba/discovery/neighbour"
	"github.com/chiba-mesh/chiba/discovery/probe"
	"github.com/chiba-mesh/chiba/discovery/ssdp"
	"github.com/chiba-mesh/chiba/discovery/static"
	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/fault"
)

type options struct {
	interfaces, cidrs            []string
	window                       time.Duration
	why                          bool
	noMDNS, noSSDP, noNeighbours bool
}

// Command is `chiba discover`. It uses the flags of cli.NewRoot.
func Command() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:     "discover",
		GroupID: cli.GroupSee,
		Short:   "look for BMCs on this machine's networks",
		Long: `Look for BMCs on this machine's networks: by mDNS and SSDP, among all IPv6
neighbours, and at the addresses that are given. Whoever is hinted at is asked for
its key and its service root, with no credential; names, roles and serial numbers
that a BMC announces are shown and not believed.

It needs no coordinator and no agent: a laptop on the rack's switch is enough.`,
		Example: `  chiba discover                                # two seconds, all interfaces
  chiba discover --interface eth1 --for 10s --why
  chiba discover --cidr 10.0.0.0/24 -o json`,
		Args: cli.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd, o) },
	}
	flags := cmd.Flags()
	flags.StringSliceVarP(&o.interfaces, "interface", "i", nil, "look on the interface `NAME` only; may be repeated")
	flags.DurationVar(&o.window, "for", 2*time.Second, "how `LONG` to look")
	flags.StringSliceVar(&o.cidrs, "cidr", nil, "ask every address of the `RANGE` too; may be repeated")
	flags.BoolVar(&o.why, "why", false, "say of every address how it was found and what it answered")
	flags.BoolVar(&o.noMDNS, "no-mdns", false, "don't browse mDNS")
	flags.BoolVar(&o.noSSDP, "no-ssdp", false, "don't search by SSDP")
	flags.BoolVar(&o.noNeighbours, "no-neighbours", false, "don't ask the neighbours")
	return cmd
}

func run(cmd *cobra.Command, o options) error {
	if o.window <= 0 || o.window > time.Hour {
		return cli.UsageError(fmt.Sprintf("--for %s: from 1ms to 1h can be looked", o.window), "2s finds what announces itself; a range takes longer")
	}
	finders, err := o.finders()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), o.window)
	defer cancel()
	live := newLive(cmd.ErrOrStderr(), time.Now())
	result := Scan{Finders: finders, Ask: probe.Ask, Now: time.Now, Progress: live.draw}.Run(ctx)
	live.clear()
	if cmd.Context().Err() != nil {
		return fault.New(fault.Canceled, "look for BMCs", "stopped")
	}
	return report(cmd, o, result)
}

// finders are what the options ask for.
func (o options) finders() (map[string]Finder, error) {
	all := map[string]Finder{}
	if !o.noMDNS {
		all[mdns.Name] = mdns.Finder{Interfaces: o.interfaces, Log: slog.New(slog.DiscardHandler)}
	}
	if !o.noSSDP {
		all[ssdp.Name] = ssdp.Finder{Interfaces: o.interfaces}
	}
	if !o.noNeighbours {
		all[neighbour.Name] = neighbour.Finder{Interfaces: o.interfaces}
	}
	if len(all) > 0 {
		if _, err := link.Find(o.interfaces); len(o.interfaces) > 0 && err != nil {
			return nil, cli.UsageError(err.Error(), "`ip link` lists the interfaces of this machine")
		} else if err != nil && len(o.cidrs) == 0 {
			return nil, err
		}
	}
	var addresses []string
	for _, c := range o.cidrs {
		more, err := static.Range(c)
		if err != nil {
			return nil, cli.UsageError(err.Error(), fault.HintOf(err))
		}
		addresses = append(addresses, more...)
	}
	if len(addresses) > 0 {
		slices.Sort(addresses)
		all[static.Name] = static.Finder{Addresses: slices.Compact(addresses)}
	}
	if len(all) == 0 {
		return nil, cli.UsageError("every way to look is switched off", "give a --cidr, or leave out one of the --no flags")
	}
	return all, nil
}

// live is one line on a terminal that counts while the scan runs.
type live struct {
	w     io.Writer
	on    bool
	drawn time.Time
}

// every is how often the line is drawn: it must not slow the scan down.
const every = 50 * time.Millisecond

func newLive(w io.Writer, now time.Time) *live {
	return &live{w: w, on: cli.ScreenOf(w).Terminal, drawn: now}
}

func (l *live) draw(p Progress) {
	if now := time.Now(); l.on && now.Sub(l.drawn) >= every {
		l.drawn = now
		fmt.Fprintf(l.w, "\r\x1b[K%d addresses seen, %d asked, %d answer as BMCs", p.Seen, p.Asked, p.Found)
	}
}

func (l *live) clear() {
	if l.on {
		fmt.Fprint(l.w, "\r\x1b[K")
	}
}

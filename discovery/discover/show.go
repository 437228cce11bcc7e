package discover

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/discovery/mdns"
	"github.com/chiba-mesh/chiba/discovery/ssdp"
	"github.com/chiba-mesh/chiba/discovery/static"
	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/fault"
)

// shownBMC is a candidate as programs read it.
type shownBMC struct {
	Addresses []string `json:"addresses"`
	Names     []string `json:"names"`
	Found     []string `json:"found"`
	Services  []string `json:"services"`
	Pin       string   `json:"pin"` // "" if it does not answer
	Vendor    string   `json:"vendor"`
	Product   string   `json:"product"`
	UUID      string   `json:"uuid"`
	Version   string   `json:"redfish_version"`
	Hints     []string `json:"hints"` // what it says of itself: not to be believed
	Odd       []string `json:"odd"`
}

// report prints what was found. Whoever announced itself and did not answer is in
// the table too; a neighbour that is no BMC is only counted.
func report(cmd *cobra.Command, o options, r Result) error {
	if len(r.Failed) == r.Finders {
		return fault.Wrap(fault.Unavailable, "look for BMCs", r.Failed[slices.Sorted(maps.Keys(r.Failed))[0]])
	}
	format, err := cli.OutputOf(cmd)
	if err != nil {
		return err
	}
	wide := format == cli.WideFormat
	all, others := list(r.Table)
	out := cli.List{Data: all, Names: []string{}}
	out.Table.Columns = cli.Columns("ADDRESS", "NAME", "FOUND", "KEY", "PRODUCT", "+UUID", "+REDFISH", "+SAYS", "ODD")
	for _, b := range all {
		odd := cli.Cell{Text: strings.Join(b.Odd, "; "), Colour: cli.Warn}
		out.Names = append(out.Names, b.Addresses[0])
		out.Table.Add(addresses(b, wide), strings.Join(b.Names, ", "), strings.Join(b.Found, ","), short(b.Pin, wide),
			strings.TrimSpace(b.Vendor+" "+b.Product), b.UUID, b.Version, strings.Join(b.Hints, ", "), odd)
	}
	if err = out.Print(cmd); err != nil {
		return err
	}
	for _, line := range remarks(r, o, len(all), others) {
		cli.Note(cmd, "%s", line)
	}
	if o.why {
		for line := range strings.Lines(r.Table.Explain(time.Now())) {
			cli.Note(cmd, "%s", strings.TrimSuffix(line, "\n"))
		}
	}
	return nil
}

// maxSilent bounds how many that announce themselves and don't answer are shown:
// a flood must not bury the others.
const maxSilent = 64

// list is what to show, and how many more addresses there were.
func list(t *discovery.Table) (all []shownBMC, others int) {
	all = []shownBMC{}
	for _, c := range t.Candidates() {
		if c.Problem != "" && len(c.Services) == 0 && !slices.Contains(c.Found, static.Name) {
			others++
			continue
		}
		all = append(all, shownBMC{
			Addresses: c.Addresses, Names: some(c.Names), Found: some(c.Found), Services: some(c.Services), Pin: c.Pin, Vendor: c.Vendor,
			Product: c.Product, UUID: c.UUID, Version: c.Version, Hints: some(c.Hints), Odd: some(c.Odd),
		})
	}
	silent := 0
	for _, s := range t.Silent() {
		announced := slices.Contains(s.Found, mdns.Name) || slices.Contains(s.Found, ssdp.Name)
		if !announced || silent == maxSilent {
			others++
			continue
		}
		silent++
		odd := "not asked to the end"
		if s.Problem != "" {
			odd = "does not answer: " + s.Problem
		}
		all = append(all, shownBMC{
			Addresses: []string{s.Address}, Names: some(s.Names), Found: some(s.Found), Services: []string{}, Hints: []string{}, Odd: []string{odd},
		})
	}
	return all, others
}

// some is never nil: programs read a list.
func some(texts []string) []string {
	if texts == nil {
		return []string{}
	}
	return texts
}

// addresses are all of them with -o wide, else the first and how many more.
func addresses(b shownBMC, wide bool) string {
	if n := len(b.Addresses) - 1; n > 0 && !wide {
		return fmt.Sprintf("%s +%d", b.Addresses[0], n)
	}
	return strings.Join(b.Addresses, " ")
}

// short is a pin as it is shown: whole with -o wide, for the catalogue.
func short(pin string, wide bool) string {
	if n := len("sha256/") + 12; !wide && len(pin) > n {
		return pin[:n] + "…"
	}
	return pin
}

// remarks say what was not possible, and what to do about it.
func remarks(r Result, o options, found, others int) []string {
	all := r.Table.Notes()
	for _, name := range slices.Sorted(maps.Keys(r.Failed)) {
		all = append(all, fmt.Sprintf("%s: %v", name, r.Failed[name]))
	}
	if r.Unasked > 0 {
		all = append(all, fmt.Sprintf("%d addresses were not asked, there was no time: look longer with --for %s", r.Unasked, 5*o.window))
	}
	if others > 0 && !o.why {
		all = append(all, fmt.Sprintf("%d more addresses did not answer as BMCs, --why names them", others))
	}
	if found == 0 {
		all = append(all, "no BMC found; --interface names another network, --cidr asks where nothing is announced")
	}
	return all
}

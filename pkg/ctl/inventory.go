package ctl

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/inventory"
)

func getInventory() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inventory [TARGET]",
		Short: "tell what servers are made of: processors, memory, drives, firmware …",
		Long: `Tell what servers are made of, as their BMCs say it now.

Without a target it tells of every node. Each part is a row. Empty slots, ports,
accounts, certificates and licenses are shown with -o wide, with the URI of each
part; -o json has every fact with the URI and the JSON pointer of where it stands,
in base units. Of a BMC that does not answer the last inventory is shown, and how
old it is. What has changed since the one before: chiba get changes.`,
		Example:           "  chiba get inventory r01-u03\n  chiba get inventory 'r01-*' -o json\n  chiba get inventory r01-u03 -o wide",
		Aliases:           []string{"inv", "hardware"},
		Args:              cli.Args(0, 1),
		ValidArgsFunction: completeNodes,
	}
	kinds := cmd.Flags().StringSlice("kind", nil, "only parts of these kinds: drive,memory")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		for _, k := range *kinds {
			if !slices.Contains(inventory.Kinds(), k) {
				return cli.UsageError("there is no kind "+strconv.Quote(k), "one of "+strings.Join(inventory.Kinds(), ", "))
			}
		}
		where := "all"
		if len(args) > 0 {
			where = target(args[0])
		}
		src, err := command(cmd, "dump", []string{"inventory", where})
		if err != nil {
			return err
		}
		return with(cmd, func(c *client.Client) error { return showInventory(cmd, c, src, *kinds) })
	}
	return cmd
}

// nodeInventory is what one node is made of.
type nodeInventory struct {
	Node fleet.NodeName `json:"node"`
	inventory.Doc
	headline string
}

func showInventory(cmd *cobra.Command, c *client.Client, src client.Source, kinds []string) error {
	var all []nodeInventory
	var results []fleet.Result
	a, err := gather(cmd, c.Show(cmd.Context(), src), func(r fleet.Result) error {
		if r.Status.OK() {
			doc, err := inventory.ReadDoc(r.Body)
			if err != nil {
				r.Status, r.Kind, r.Error = fleet.Failed, string(fault.Garbage), err.Error()
			} else {
				line := headline(doc) // before parts go
				all = append(all, nodeInventory{r.Node, only(doc, kinds), line})
			}
		}
		r.Body = nil
		results = append(results, r)
		return nil
	})
	if err != nil {
		return sent(cmd, err)
	}
	slices.SortFunc(all, func(x, y nodeInventory) int { return cmpNames(x.Node, y.Node) })
	if err := printInventories(cmd, all); err != nil {
		return err
	}
	for _, r := range results {
		if !r.Status.OK() {
			cli.Note(cmd, "%s: %s", r.Node, without(r.Node, r.Error))
		}
	}
	return a.end(results)
}

// only keeps the parts of the kinds, all if there are none.
func only(d inventory.Doc, kinds []string) inventory.Doc {
	if len(kinds) > 0 {
		d.Parts = slices.DeleteFunc(d.Parts, func(p inventory.DocPart) bool { return !slices.Contains(kinds, p.Kind) })
	}
	return d
}

func printInventories(cmd *cobra.Command, all []nodeInventory) error {
	format, err := cli.OutputOf(cmd)
	switch {
	case err != nil:
		return err
	case format.Machine():
		return cli.Encode(cmd.OutOrStdout(), format, append([]nodeInventory{}, all...))
	case format == cli.NameFormat:
		return cli.BadFormat(format, cli.TableFormat, cli.WideFormat, cli.JSONFormat, cli.YAMLFormat)
	}
	for i, n := range all {
		if i > 0 {
			fmt.Fprintln(cmd.OutOrStdout())
		}
		printInventory(cmd, n, format == cli.WideFormat)
	}
	return nil
}

// rare are the kinds that only -o wide shows; sensors no table does: chiba show
// reads them.
var rare = [...]string{"port", "account", "certificate", "license"}

func printInventory(cmd *cobra.Command, n nodeInventory, wide bool) {
	w := cmd.OutOrStdout()
	fmt.Fprintln(w, cli.Clean(string(n.Node)+": "+n.headline))
	t := cli.Table{Columns: cli.Columns("=KIND", "SLOT", "WHAT", "SIZE", "=SERIAL", "FIRMWARE", "HEALTH", "+PART", "+URI")}
	empty, slots := 0, slotsOf(n.Parts)
	for i, p := range n.Parts {
		switch {
		case p.Kind == "sensor", !wide && (slices.Contains(rare[:], p.Kind) || isHollow(p)):
		case !wide && isEmpty(p):
			empty++
		default:
			t.Add(p.Kind, slots[i], made(p), size(p), p.Facts["serial"].String(), firmware(p), healthOf(p), p.Facts["part_number"].String(), p.URI)
		}
	}
	t.Print(cmd)
	for _, note := range inventoryNotes(n.Doc, empty) {
		fmt.Fprintln(w, cli.Clean(note))
	}
}

// headline is a server in one line.
func headline(d inventory.Doc) string {
	var text []string
	for _, p := range d.Parts {
		switch {
		case p.Kind == "system" && len(text) == 0:
			text = append(text, or(made(p), "a server"))
			text = named(text, "serial", p.Facts["serial"])
			text = named(text, "BIOS", p.Facts["bios"])
		case p.Kind == "manager" && p.Facts["firmware"].String() != "" && len(text) > 0:
			return strings.Join(named(text, "BMC", p.Facts["firmware"]), ", ")
		}
	}
	return or(strings.Join(text, ", "), cli.Count(len(d.Parts), "part"))
}

func named(text []string, what string, f inventory.DocFact) []string {
	if s := f.String(); s != "" {
		return append(text, what+" "+s)
	}
	return text
}

func inventoryNotes(d inventory.Doc, empty int) (notes []string) {
	if d.Stale != "" {
		notes = append(notes, "this is "+ago(d.At)+" old: "+d.Stale)
	}
	if d.Cut != "" {
		notes = append(notes, "it is not whole: "+d.Cut)
	}
	if empty > 0 {
		notes = append(notes, cli.Count(empty, "empty slot")+" not shown: -o wide shows all")
	}
	lost := slices.DeleteFunc(slices.Clone(d.Unread), func(u inventory.DocUnread) bool { return u.Inline })
	if len(lost) > 0 {
		notes = append(notes, "not read: "+cli.Count(len(lost), "resource")+" that the BMC names; -o json tells which, and why")
	}
	return notes
}

func isEmpty(p inventory.DocPart) bool { return p.Facts["present"].Value == false }

// isHollow reports whether a part is a vendor's addition inside of another one
// that tells nothing but its name.
func isHollow(p inventory.DocPart) bool {
	for name, f := range p.Facts {
		if name != "name" && f.Value != nil {
			return false
		}
	}
	return strings.Contains(p.URI, "#")
}

// slotsOf are the parts' slots. Where several of a kind have one name, as every
// module of an OpenBMC is called "DIMM Slot", the ends of their URIs tell them
// apart.
func slotsOf(parts []inventory.DocPart) []string {
	type key struct{ kind, slot string }
	seen, slots := map[key]int{}, make([]string, len(parts))
	for i, p := range parts {
		slots[i] = slot(p)
		seen[key{p.Kind, slots[i]}]++
	}
	for i, p := range parts {
		if seen[key{p.Kind, slots[i]}] > 1 {
			slots[i] = p.URI[strings.LastIndexByte(p.URI, '/')+1:]
		}
	}
	return slots
}

// slot is where a part is, as it is written on the case if the BMC says it.
func slot(p inventory.DocPart) string {
	for _, fact := range []string{"slot", "socket", "user", "name"} {
		if s := p.Facts[fact].String(); s != "" {
			return s
		}
	}
	return p.URI[strings.LastIndexByte(p.URI, '/')+1:]
}

// made is the maker and the model, without saying the maker twice.
func made(p inventory.DocPart) string {
	maker, model := p.Facts["manufacturer"].String(), p.Facts["model"].String()
	switch {
	case isEmpty(p):
		return "(empty)"
	case model == "" && p.Kind == "memory": // its kind stands with its size
		return maker
	case model == "":
		return or(maker, p.Facts["kind"].String())
	case strings.HasPrefix(strings.ToLower(model), strings.ToLower(maker)):
		return model
	}
	return maker + " " + model
}

// size is what a part is measured by.
func size(p inventory.DocPart) string {
	fact := func(name string) string { return p.Facts[name].String() }
	var all []string
	switch p.Kind {
	case "system":
		all = []string{ending(binary(p.Facts["memory"]), " memory")}
	case "processor":
		all = []string{ending(fact("cores"), " cores"), fact("speed")}
	case "memory":
		all = []string{binary(p.Facts["capacity"]), fact("kind"), megahertz(p.Facts["speed"])}
	case "drive":
		all = []string{fact("capacity"), fact("protocol"), fact("media")}
	case "volume":
		all = []string{fact("capacity"), fact("raid")}
	case "nic":
		all = []string{fact("mac"), fact("address")}
	case "port":
		all = []string{fact("address")}
	case "psu":
		all = []string{fact("capacity")}
	case "account":
		all = []string{fact("role")}
	case "certificate":
		all = []string{fact("until")}
	}
	return strings.Join(slices.DeleteFunc(all, func(s string) bool { return s == "" }), " ")
}

// ending is s with an end, "" if there is no s.
func ending(s, end string) string {
	if s == "" {
		return ""
	}
	return s + end
}

// binary is an amount of memory as people write it, in powers of 1024.
func binary(f inventory.DocFact) string {
	n, isNumber := f.Value.(float64)
	if !isNumber || f.Unit != "B" || n <= 0 {
		return ""
	}
	unit := 0
	for ; n >= 1024 && unit < 4; unit++ {
		n /= 1024
	}
	return strconv.FormatFloat(n, 'f', -1, 64) + [...]string{"B", "KiB", "MiB", "GiB", "TiB"}[unit]
}

// megahertz is the speed of memory as it is written on a module.
func megahertz(f inventory.DocFact) string {
	n, isNumber := f.Value.(float64)
	if !isNumber || f.Unit != "Hz" || n <= 0 {
		return ""
	}
	return strconv.FormatFloat(n/1e6, 'f', 0, 64) + "MHz"
}

func firmware(p inventory.DocPart) string {
	for _, fact := range []string{"firmware", "version", "bios"} {
		if s := p.Facts[fact].String(); s != "" {
			return s
		}
	}
	return ""
}

func healthOf(p inventory.DocPart) cli.Cell { return healthCell(p.Facts["health"].String()) }

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

package inventory

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// Table says what was found of each kind, for a person: parts, how many of
// their facts are known, and what has no place in the model or can't be read.
func (inv *Inventory) Table() string {
	var text strings.Builder
	out := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "KIND\tPARTS\tPRESENT\tFACTS\tKNOWN\tAS")
	for _, k := range kinds() {
		if row := inv.row(k); row != "" {
			fmt.Fprintln(out, row)
		}
	}
	_ = out.Flush() // into memory
	read, inline := 0, 0
	for _, u := range inv.Unread {
		if u.Inline {
			inline++
		} else {
			read++
		}
	}
	fmt.Fprintf(&text, "%d resources read, %d that links lead to could not be, of %d of these another holds the content\n",
		inv.Resources, read+inline, inline)
	if inv.Cut != "" {
		fmt.Fprintf(&text, "cut short: %s\n", inv.Cut)
	}
	fmt.Fprintf(&text, "no place in the model: %s\n", inv.others())
	text.WriteString(inv.odd())
	return text.String()
}

// odd says each kind of oddity once, with where it was seen first.
func (inv *Inventory) odd() string {
	first, count := map[string]string{}, map[string]int{}
	for _, o := range inv.Oddities {
		if count[o.What]++; count[o.What] == 1 {
			first[o.What] = o.URI
		}
	}
	var text strings.Builder
	for _, what := range slices.Sorted(maps.Keys(count)) {
		fmt.Fprintf(&text, "odd: %s: %s", first[what], what)
		if n := count[what] - 1; n > 0 {
			fmt.Fprintf(&text, " (and %d more)", n)
		}
		text.WriteString("\n")
	}
	return text.String()
}

func (inv *Inventory) row(k kind) string {
	parts := k.parts(inv)
	if len(parts) == 0 {
		return ""
	}
	types := map[string]int{}
	present, facts, known := 0, 0, 0
	for _, p := range parts {
		types[orDash(partOf(p).Type)]++
		if is, told := partOf(p).Present.Bool(); is || !told {
			present++
		}
		for _, f := range fields(p) {
			if facts++; f.Known() {
				known++
			}
		}
	}
	return fmt.Sprintf("%s\t%d\t%d\t%d\t%d\t%s", k.name, len(parts), present, facts, known, counted(types))
}

func (inv *Inventory) others() string {
	types := map[string]int{}
	for _, o := range inv.Others {
		types[orDash(o.Type)]++
	}
	return counted(types)
}

func orDash(s string) string {
	if s == "" {
		return "—"
	}
	return s
}

// counted is "LogEntry 12, Role 3", sorted by name.
func counted(types map[string]int) string {
	all := make([]string, 0, len(types))
	for _, name := range slices.Sorted(maps.Keys(types)) {
		all = append(all, fmt.Sprintf("%s %d", name, types[name]))
	}
	return strings.Join(all, ", ")
}

// URIs are those of everything in the inventory, of the model or not.
func (inv *Inventory) URIs() []string {
	var all []string
	for _, k := range kinds() {
		for _, p := range k.parts(inv) {
			all = append(all, partOf(p).URI)
		}
	}
	for _, o := range inv.Others {
		all = append(all, o.URI)
	}
	return all
}

// String is every part with every fact and where it stands, one line each.
func (inv *Inventory) String() string {
	var text strings.Builder
	for _, k := range kinds() {
		for _, p := range k.parts(inv) {
			fmt.Fprintf(&text, "%s %s\n", k.name, partOf(p).URI)
			for field, f := range fields(p) {
				value := f.String()
				if why := f.Why(); why != "" {
					value += " (" + why + ")"
				}
				fmt.Fprintf(&text, "  %s: %s, %s\n", field.Name, value, f.Source)
			}
		}
	}
	return text.String()
}

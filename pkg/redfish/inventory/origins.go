package inventory

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// Origins says of every type of a record how its resources came to be read: by a
// link that leads there, inside of another resource, or, those in rest, though
// none does, each for the reason in why.
func Origins(crawled *redfish.Tree, rest []redfish.Resource, why []string) string {
	linked, unlinked, inline := map[string]int{}, map[string]int{}, map[string]int{}
	read, reasons := 0, map[string]int{}
	own := map[string]bool{}
	for _, r := range crawled.Resources {
		if r.Body != nil {
			read++
			own[plain(r.URI)] = true
			linked[orDash(decode(r.Body).typ)]++
		}
	}
	for i, r := range rest {
		unlinked[orDash(decode(r.Body).typ)]++
		reasons[why[i]]++
	}
	inv := Of(crawled)
	for uri, typ := range inv.types() {
		if !own[uri] {
			inline[orDash(typ)]++
		}
	}
	all := map[string]bool{}
	for _, types := range []map[string]int{linked, unlinked, inline} {
		for t := range types {
			all[t] = true
		}
	}
	var text strings.Builder
	out := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "LINKED\tUNLINKED\tINSIDE\t  TYPE")
	for _, t := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(out, "%s\t%s\t%s\t  %s\n", orNone(linked[t]), orNone(unlinked[t]), orNone(inline[t]), t)
	}
	_ = out.Flush() // into memory
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		fmt.Fprintf(&text, "%s %s\n", files(reasons[reason]), reason)
	}
	fmt.Fprintf(&text, "%s read: %d by links, %d without\n", files(read+len(rest)), read, len(rest))
	return text.String()
}

func files(n int) string {
	if n == 1 {
		return "1 file"
	}
	return fmt.Sprintf("%d files", n)
}

func orNone(n int) string {
	if n == 0 {
		return "·"
	}
	return strconv.Itoa(n)
}

// types are the types of everything by URI.
func (inv *Inventory) types() map[string]string {
	all := map[string]string{}
	for _, k := range kinds() {
		for _, p := range k.parts(inv) {
			all[partOf(p).URI] = partOf(p).Type
		}
	}
	for _, o := range inv.Others {
		all[o.URI] = o.Type
	}
	return all
}

package catalogue

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Change is one difference between two catalogues.
type Change struct {
	Sign    rune   // '+' it is new, '-' it is no longer there, '~' it is another
	Subject string // "rack r01"
	Text    string // what of it, and how: "position: hall 2 -> hall 3"
}

// String is the change on one line.
func (c Change) String() string {
	if c.Text == "" {
		return fmt.Sprintf("%c %s", c.Sign, c.Subject)
	}
	return fmt.Sprintf("%c %s: %s", c.Sign, c.Subject, c.Text)
}

// Diff is what changes from one catalogue to another, by subject. Either may be nil.
func Diff(from, to *Catalogue) []Change {
	before, after := from.facts(), to.facts()
	subjects := maps.Clone(before)
	maps.Copy(subjects, after)
	var all []Change
	for _, s := range slices.Sorted(maps.Keys(subjects)) {
		was, is := before[s], after[s]
		switch {
		case was == nil:
			all = append(all, Change{'+', s, summary(is)})
		case is == nil:
			all = append(all, Change{'-', s, ""})
		default:
			all = append(all, altered(s, was, is)...)
		}
	}
	return all
}

func altered(subject string, was, is map[string]string) (all []Change) {
	keys := maps.Clone(was)
	maps.Copy(keys, is)
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		before, had := was[k]
		after, has := is[k]
		switch {
		case !had:
			all = append(all, Change{'~', subject, k + ": " + after + " (new)"})
		case !has:
			all = append(all, Change{'~', subject, k + ": " + before + " -> none"})
		case before != after:
			all = append(all, Change{'~', subject, k + ": " + before + " -> " + after})
		}
	}
	return all
}

func summary(facts map[string]string) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(facts)) {
		all = append(all, k+" "+facts[k])
	}
	return strings.Join(all, "; ")
}

// facts are what a catalogue says of each of its subjects.
func (c *Catalogue) facts() map[string]map[string]string {
	all := map[string]map[string]string{}
	if c == nil {
		return all
	}
	for _, s := range c.Sites {
		f := labelled(s.Labels)
		f.text("address", s.Address)
		f.number("wan connections", s.WAN.Connections)
		all["site "+string(s.Name)] = f
	}
	for i := range c.Racks {
		r := &c.Racks[i]
		all["rack "+string(r.Name)] = r.facts()
		for _, n := range r.Nodes {
			f := labelled(n.Labels)
			f.text("rack", string(r.Name))
			all["node "+string(n.Name)] = f
		}
	}
	for _, g := range c.Groups {
		all["group "+g.Name] = facts{"members": strings.Join(g.Members, " ")}
	}
	return all
}

func (r *Rack) facts() map[string]string {
	f := labelled(r.Labels)
	f.text("site", string(r.Site))
	f.text("position", r.Position)
	f.text("standby", string(r.Standby))
	for _, n := range r.Networks {
		how := "heard of"
		if n.Scan {
			how = "looked through"
		}
		if n.Interface != "" {
			how += " on " + n.Interface
		}
		f.text("network "+n.CIDR.String(), how)
	}
	for _, b := range r.BMCs {
		f.text("BMC "+b.String(), "listed")
	}
	f.number("limit of nodes", r.Limits.Nodes)
	f.number("limit of requests", r.Limits.Requests)
	if r.Limits.Spool > 0 {
		f.text("limit of spool", strconv.FormatInt(r.Limits.Spool>>20, 10)+"MiB")
	}
	return f
}

// facts are texts by what they are of; what is empty is none.
type facts map[string]string

func labelled(labels map[string]string) facts {
	f := facts{}
	for k, v := range labels {
		f["label "+k] = v
	}
	return f
}

func (f facts) text(key, value string) {
	if value != "" {
		f[key] = value
	}
}

func (f facts) number(key string, value int) {
	if value != 0 {
		f[key] = strconv.Itoa(value)
	}
}

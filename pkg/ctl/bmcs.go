package ctl

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

func getBMCs() *cobra.Command {
	var all, why bool
	cmd := &cobra.Command{
		Use:   "bmcs [TARGET…]",
		Short: "list the BMCs: how far they are ours, and what is left to do",
		Long: `List the BMCs and how far their take-over is.

TRUST is how far a BMC is believed, TX and T0 to T4: chiba trust explain tells why.
TAKEOVER is mtls-strict (only a certificate of the rack lets anybody in), mtls (we
log in by certificate, others may log in otherwise), token (our certificate is
served, we log in by password) or none. STEP is the step under way. Below the
table stands what could not be done, and what keeps a BMC below T3.

--all also lists the BMCs that were found and are none of the fleet: waiting for a
person (chiba bmc admit), or refused. --why tells what was seen of each BMC from
outside, by whom, on which interface, and which of it others claim, too.`,
		Example:           "  chiba get bmcs\n  chiba get bmcs --all --why\n  chiba get bmcs 'r01-*' -o wide",
		Aliases:           []string{"bmc"},
		ValidArgsFunction: completeNodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd, func(c *client.Client) error {
				nodes, err := c.Nodes(cmd.Context())
				if err != nil {
					return err
				}
				if !all || len(args) == 0 {
					nodes, err = matching(cmd, c, nodes, args)
				} else {
					nodes = chosen(nodes, args)
				}
				if err != nil {
					return err
				}
				if all {
					found, err := c.Found(cmd.Context())
					if err != nil {
						return err
					}
					nodes = append(nodes, chosen(found, args)...)
				}
				if err := listBMCs(nodes, all).Print(cmd); err != nil {
					return err
				}
				printLimits(cmd, nodes)
				if why {
					printEvidence(cmd, nodes)
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also those that were found and are none of the fleet")
	cmd.Flags().BoolVar(&why, "why", false, "tell what was seen of each, and by whom")
	return cmd
}

func listBMCs(nodes []fleet.Node, all bool) cli.List {
	l := cli.List{Data: mapped(nodes, viewBMC), Names: []string{}}
	l.Table.Columns = cli.Columns("=NODE", "=TRUST", "=TAKEOVER", "STEP", "CERTIFICATE", "PASSWORD", "OPEN", "+CLOCK", "+ADDRESS", "+SEEN", "+KEY")
	if all {
		l.Table.Columns = cli.Columns("=NODE", "=STATE", "=TRUST", "=TAKEOVER", "STEP", "MAKE", "ADDRESS", "BY", "+CERTIFICATE", "+PASSWORD", "+SEEN", "+KEY")
	}
	for _, n := range nodes {
		t := n.Trust
		if all {
			l.Names = append(l.Names, string(n.Name))
			l.Table.Add(string(n.Name), admissionCell(n), trustCell(t), takeoverCell(t), stepOf(t), n.Admission.Make, n.Address,
				strings.Join(n.Admission.By, " "), certificateOf(t), passwordOf(t), ago(n.Seen), t.Pin)
			continue
		}
		l.Names = append(l.Names, string(n.Name))
		l.Table.Add(string(n.Name), trustCell(t), takeoverCell(t), stepOf(t), certificateOf(t), passwordOf(t), strings.Join(t.Weak, " "),
			clockOf(t), n.Address, ago(t.At), t.Pin)
	}
	return l
}

func takeoverCell(t fleet.BMCTrust) cli.Cell {
	switch {
	case t.Quarantine != "":
		return cli.Cell{Text: "quarantined", Colour: cli.Bad}
	case t.Takeover == fleet.TakeoverStrict || t.Takeover == fleet.TakeoverMutual:
		return cli.Cell{Text: string(t.Takeover), Colour: cli.Good}
	case t.Takeover == fleet.TakeoverToken:
		return cli.Cell{Text: string(t.Takeover), Colour: cli.Warn}
	}
	return cli.Cell{Text: string(cmp.Or(t.Takeover, fleet.TakeoverNone))}
}

func stepOf(t fleet.BMCTrust) string {
	switch {
	case t.Step != "":
		return t.Step
	case t.Released:
		return "given back"
	case t.Done():
		return "done"
	case t.Wanted:
		return "waits"
	}
	return ""
}

func certificateOf(t fleet.BMCTrust) string {
	switch {
	case !t.Own:
		return "its own"
	case t.CertEnds.IsZero():
		return "ours" // not read yet
	}
	return "ours, until " + t.CertEnds.Local().Format(time.DateOnly)
}

func passwordOf(t fleet.BMCTrust) string {
	if t.UniquePassword {
		return "unique"
	}
	return "as it came"
}

func clockOf(t fleet.BMCTrust) string {
	switch {
	case t.At.IsZero():
		return ""
	case t.ClockOff == 0:
		return "right"
	}
	return "off by " + t.ClockOff.String()
}

// printLimits says below the table what could not be done, once for all BMCs that
// it is true of.
func printLimits(cmd *cobra.Command, nodes []fleet.Node) {
	if format, _ := cli.OutputOf(cmd); format != cli.TableFormat {
		return
	}
	type limit struct {
		node fleet.NodeName
		text string
	}
	var all []limit
	for _, n := range nodes {
		if n.Trust.Quarantine != "" {
			all = append(all, limit{n.Name, "quarantined: " + without(n.Name, n.Trust.Quarantine)})
		}
		if n.Outside() {
			all = append(all, limit{n.Name, string(n.Admission.State) + ": " + n.Admission.Why})
			continue
		}
		if t := n.Trust; t.Why != "" && t.Quarantine == "" {
			all = append(all, limit{n.Name, t.Level + ": " + t.Why})
		}
		for _, text := range n.Trust.Limits {
			all = append(all, limit{n.Name, without(n.Name, text)})
		}
	}
	if len(all) > 0 {
		fmt.Fprintln(cmd.OutOrStdout())
	}
	for _, g := range grouped(all, func(l limit) string { return l.text }) {
		who := nodeList(mapped(g, func(l limit) fleet.NodeName { return l.node }))
		fmt.Fprintln(cmd.OutOrStdout(), cli.Clean(who+": "+g[0].text))
	}
}

// bmcView is a BMC as -o json shows it.
type bmcView struct {
	Node           fleet.NodeName `json:"node"`
	Takeover       fleet.Takeover `json:"takeover"`
	Step           string         `json:"step,omitempty"`
	Done           bool           `json:"done"`
	Released       bool           `json:"released,omitempty"`
	Key            string         `json:"key,omitempty"`
	Ours           bool           `json:"certificate_ours"`
	Ends           time.Time      `json:"certificate_ends,omitzero"`
	UniquePassword bool           `json:"unique_password"`
	Open           []string       `json:"open,omitempty"`
	ClockOff       float64        `json:"clock_off_seconds"`
	Limits         []string       `json:"limits,omitempty"`
	Quarantine     string         `json:"quarantine,omitempty"`
	Seen           time.Time      `json:"seen,omitzero"`
	Level          string         `json:"level,omitempty"`
	Why            string         `json:"level_reason,omitempty"` // what keeps it from the next one
	Since          time.Time      `json:"level_since,omitzero"`

	State    string           `json:"state"` // "listed", "admitted", "waiting", "refused"
	Reason   string           `json:"state_reason,omitempty"`
	By       []string         `json:"state_by,omitempty"`
	Rack     fleet.RackName   `json:"rack,omitempty"`
	Address  string           `json:"address,omitempty"`
	Make     string           `json:"make,omitempty"`
	UUID     string           `json:"uuid,omitempty"`
	Evidence []fleet.Evidence `json:"evidence,omitempty"`
}

func viewBMC(n fleet.Node) bmcView {
	t := n.Trust
	return bmcView{
		Node: n.Name, Takeover: cmp.Or(t.Takeover, fleet.TakeoverNone), Step: t.Step, Done: t.Done(), Released: t.Released, Key: t.Pin,
		Ours: t.Own, Ends: t.CertEnds, UniquePassword: t.UniquePassword, Open: t.Weak, ClockOff: t.ClockOff.Seconds(),
		Limits: t.Limits, Quarantine: t.Quarantine, Seen: t.At, Level: t.Level, Why: t.Why, Since: t.Since,
		State: stateOf(n), Reason: n.Admission.Why, By: n.Admission.By, Rack: n.Rack, Address: n.Address,
		Make: n.Admission.Make, UUID: n.Admission.UUID, Evidence: n.Admission.Evidence,
	}
}

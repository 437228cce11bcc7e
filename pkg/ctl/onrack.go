package ctl

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/order"
)

// onRackView is what a person on a rack had its agent do.
type onRackView struct {
	Rack       fleet.RackName   `json:"rack"`
	At         time.Time        `json:"at"`
	Kind       order.Kind       `json:"kind"`
	Script     fleet.ScriptName `json:"script"`
	Run        fleet.RunID      `json:"run,omitempty"`
	User       string           `json:"user"`
	Signers    []string         `json:"signers"`
	CutOff     bool             `json:"cut_off"`
	Superseded bool             `json:"superseded"`
	Outcome    string           `json:"outcome"`
}

func viewOnRack(l *client.LocalNews) *onRackView {
	return &onRackView{
		Rack: l.Rack, At: l.At, Kind: l.Kind, Script: l.Script, Run: l.Run, User: l.User, Signers: l.Signers,
		CutOff: l.CutOff, Superseded: l.Superseded, Outcome: l.Outcome,
	}
}

// onRack is that in a line: "r01: root put thermal into force on the rack at …".
func onRack(l *client.LocalNews) string {
	did := map[order.Kind]string{
		order.Standing: "put %s into force", order.Run: "began %s", order.Remove: "ended %s", order.Cancel: "stopped a run of %s",
	}[l.Kind]
	if did == "" {
		did = "ordered %s"
	}
	line := fmt.Sprintf("%s: %s "+did+" on the rack at %s", l.Rack, l.User, l.Script, stamp(l.At))
	if l.CutOff {
		line += " while cut off"
	}
	if len(l.Signers) > 0 {
		line += ", signed by " + strings.Join(l.Signers, " and ")
	}
	if l.Run != "" {
		line += ", run " + string(l.Run)
	}
	return line + ": " + l.Outcome
}

// inForce tells of a script that it is one rack's own.
func inForce(s client.Script) cli.Cell {
	switch {
	case s.Rack == "":
		return cli.Cell{Text: "the fleet"}
	case s.Ended:
		return cli.Cell{Text: "ended on " + string(s.Rack), Colour: cli.Warn}
	}
	return cli.Cell{Text: string(s.Rack) + " alone", Colour: cli.Warn}
}

// anyOnRack reports whether a script is one rack's own.
func anyOnRack(scripts []client.Script) bool {
	for _, s := range scripts {
		if s.Rack != "" {
			return true
		}
	}
	return false
}

// printRemarks says below the table what came of decisions on racks.
func printRemarks(cmd *cobra.Command, scripts []client.Script) {
	if format, err := cli.OutputOf(cmd); err != nil || format != cli.TableFormat && format != cli.WideFormat {
		return
	}
	for _, s := range scripts {
		for _, r := range s.Remarks {
			fmt.Fprintf(cmd.OutOrStdout(), "\n%s: %s\n", cli.Clean(string(s.Name)), cli.Clean(r))
		}
	}
}

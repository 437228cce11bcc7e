package ctl

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

func getChanges() *cobra.Command {
	return &cobra.Command{
		Use:   "changes [TARGET]",
		Short: "list what was put into servers, taken out, exchanged or updated",
		Long: `List what was put into servers, taken out, exchanged or updated, oldest first.

The agents take an inventory once a day, after a server was switched on, and when
somebody asks for it (chiba get inventory); what differs from the one before is
listed here, and told by chiba watch as it is found.`,
		Example:           "  chiba get changes\n  chiba get changes 'r01-*'",
		Args:              cli.Args(0, 1),
		ValidArgsFunction: completeNodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd, func(c *client.Client) error {
				news, err := c.HardwareNews(cmd.Context())
				if err != nil {
					return err
				}
				wanted := func(fleet.NodeName) bool { return true }
				if len(args) > 0 {
					if wanted, err = wantedNodes(cmd, c, args); err != nil {
						return err
					}
				}
				return listChanges(news, wanted).Print(cmd)
			})
		},
	}
}

func wantedNodes(cmd *cobra.Command, c *client.Client, args []string) (func(fleet.NodeName) bool, error) {
	nodes, err := c.Nodes(cmd.Context())
	if err != nil {
		return nil, err
	}
	if nodes, err = matching(cmd, c, nodes, args); err != nil {
		return nil, err
	}
	names := map[fleet.NodeName]bool{}
	for _, n := range nodes {
		names[n.Name] = true
	}
	return func(n fleet.NodeName) bool { return names[n] }, nil
}

func listChanges(news []fleet.HardwareNews, wanted func(fleet.NodeName) bool) cli.List {
	views := []hardwareView{}
	l := cli.List{}
	l.Table.Columns = cli.Columns("=AT", "NODE", "=CHANGE", "KIND", "WHERE", "BEFORE", "AFTER", "+URI")
	for _, n := range news {
		if !wanted(n.Node) {
			continue
		}
		views = append(views, viewHardware(n))
		for _, c := range n.Changes {
			l.Table.Add(stamp(n.At), string(n.Node), c.What, c.Kind, where(c), c.Before, c.After, c.Path)
		}
		if n.More > 0 {
			l.Table.Add(stamp(n.At), string(n.Node), "more", fmt.Sprintf("%d more", n.More), "", "", "", "")
		}
	}
	l.Data = views
	return l
}

// where is the end of a part's URI and, of a fact, its name: "B1 serial".
func where(c fleet.HardwareChange) string {
	uri, fact := c.Path, ""
	if at := strings.LastIndexByte(uri, '#'); at >= 0 && !strings.Contains(uri[at:], "/") {
		uri, fact = uri[:at], " "+strings.ReplaceAll(uri[at+1:], "_", " ")
	}
	return uri[strings.LastIndexByte(uri, '/')+1:] + fact
}

type hardwareView struct {
	Node    fleet.NodeName       `json:"node"`
	At      time.Time            `json:"at,omitzero"`
	Changes []hardwareChangeView `json:"changes"`
	More    int                  `json:"more,omitempty"`
}

type hardwareChangeView struct {
	What   string `json:"what"`
	Kind   string `json:"kind"`
	Path   string `json:"path"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

func viewHardware(n fleet.HardwareNews) hardwareView {
	return hardwareView{
		Node: n.Node, At: n.At, More: n.More,
		Changes: mapped(n.Changes, func(c fleet.HardwareChange) hardwareChangeView { return hardwareChangeView(c) }),
	}
}

// hardwareLine is a change in one line, for whoever watches.
func hardwareLine(c fleet.HardwareChange) string {
	thing := where(c)
	if !strings.HasPrefix(thing, c.Kind) {
		thing = c.Kind + " " + thing
	}
	switch c.What {
	case "added":
		return thing + " was added" + suffix(c.After)
	case "removed":
		return thing + " was removed" + suffix(c.Before)
	}
	return fmt.Sprintf("%s was %s, is %s", thing, or(c.Before, "—"), or(c.After, "—"))
}

func suffix(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}

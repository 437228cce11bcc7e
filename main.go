// Command chiba runs whole data centres through their BMCs. This file is the
// switch: every tree brings its own commands.
package main

import (
	"embed"
	"io/fs"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/agent"
	"github.com/chiba-mesh/chiba/coordinator"
	"github.com/chiba-mesh/chiba/discovery/discover"
	"github.com/chiba-mesh/chiba/e2e/bench"
	"github.com/chiba-mesh/chiba/e2e/dev"
	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/ctl"
	"github.com/chiba-mesh/chiba/pkg/sim"
	"github.com/chiba-mesh/chiba/trust/author"
	"github.com/chiba-mesh/chiba/trust/ca"
)

//go:embed docs/examples/*.scl
var docs embed.FS

func command() *cobra.Command {
	examples, err := fs.Sub(docs, "docs/examples")
	if err != nil {
		panic(err) // the path above is wrong: nothing can run
	}
	root := cli.NewRoot()
	root.AddCommand(ctl.Commands(author.Open)...)
	join(root, author.Commands())
	root.AddCommand(dev.Command(examples, command), agent.Command(), coordinator.Command(ctl.RemoveCoordinator(author.Open)), discover.Command(), sim.Command(), bench.Command(), ca.Command())
	return root
}

// join adds commands to root. Two trees may share a word: what is under it is
// joined, or one of them could not be reached.
func join(root *cobra.Command, commands []*cobra.Command) {
	for _, c := range commands {
		at := slices.IndexFunc(root.Commands(), func(known *cobra.Command) bool { return known.Name() == c.Name() })
		if at < 0 {
			root.AddCommand(c)
			continue
		}
		root.Commands()[at].AddCommand(c.Commands()...)
	}
}

func main() { os.Exit(cli.Main(command())) }

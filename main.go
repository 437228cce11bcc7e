// Command chiba runs whole data centres through their BMCs. This file is the
// switch: every tree brings its own commands.
package main

import (
	"embed"
	"io/fs"
	"os"

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
	root.AddCommand(author.Commands()...)
	root.AddCommand(ctl.Trust(author.Trust()...))
	root.AddCommand(dev.Command(examples, command), agent.Command(), coordinator.Command(ctl.RemoveCoordinator(author.Open)), discover.Command(), sim.Command(), bench.Command(), ca.Command())
	return root
}

func main() { os.Exit(cli.Main(command())) }

// Command chiba runs whole data centres through their BMCs.
package main

import (
	"os"

	"github.com/spf13/cobra"
)

func main() {
	root := &cobra.Command{Use: "chiba"}
	if err := root.Execute(); err != nil {
		os.Exit(1)
	}
}

package ctl

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		GroupID: cli.GroupTools,
		Short:   "print the version of this program",
		Example: "  chiba version\n  chiba version -o json",
		Args:    cli.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, err := cli.OutputOf(cmd)
			if err != nil {
				return err
			}
			v := cli.Build()
			if format.Machine() {
				return cli.Encode(cmd.OutOrStdout(), format, v)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "chiba "+v.String())
			return nil
		},
	}
}

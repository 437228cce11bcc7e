package ctl

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
)

type versionView struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Time     string `json:"time,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
}

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
			v := buildVersion()
			if format.Machine() {
				return cli.Encode(cmd.OutOrStdout(), format, v)
			}
			line := "chiba " + v.Version
			if v.Revision != "" {
				line += " " + v.Revision
			}
			if v.Modified {
				line += " (modified)"
			}
			fmt.Fprintln(cmd.OutOrStdout(), line+" "+v.Go)
			return nil
		},
	}
}

// buildVersion is what the Go toolchain wrote into the binary.
func buildVersion() versionView {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return versionView{Version: "unknown"}
	}
	v := versionView{Version: info.Main.Version, Go: info.GoVersion}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value[:min(12, len(s.Value))]
		case "vcs.time":
			v.Time = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	if v.Version == "" {
		v.Version = "(devel)"
	}
	return v
}

package agent

import (
	"errors"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// Command is `chiba agent`. It runs until its context ends, which is no error.
func Command() *cobra.Command {
	var config, state string
	cmd := &cobra.Command{
		Use:   "agent (--config FILE | --state DIR)",
		Short: "run the agent of a rack",
		Long: `Run the agent of a rack: it finds the BMCs of its catalogue, watches the standing
rules, and does the rack's part of every run, also while it reaches no coordinator.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (config == "") == (state == "") {
				return fault.New(fault.BadInput, "", "either --config or --state is needed").
					WithHint("chiba agent --state DIR reads DIR/" + ConfigFile)
			}
			if config == "" {
				config = filepath.Join(state, ConfigFile)
			}
			cfg, err := ReadConfig(config)
			if err != nil {
				return err
			}
			if state != "" {
				cfg.State = state
			}
			a, err := New(cfg)
			if err != nil {
				return err
			}
			if err := a.Run(cmd.Context()); err != nil && !errors.Is(err, cmd.Context().Err()) {
				return err
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "configuration file")
	cmd.Flags().StringVar(&state, "state", "", "directory with "+ConfigFile+", the credentials and the spool")
	return cmd
}

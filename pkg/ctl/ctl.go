// Package ctl is the operators' commands: what is typed to see and to change a
// fleet. Each speaks to a coordinator through pkg/client; scripts are checked
// here first, and nothing is sent of one that is wrong.
//
// What a command was asked for goes to stdout, everything else (diagnostics,
// questions, notes, errors) to stderr, which stays empty on success.
package ctl

import (
	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
)

// Commands are the operators' commands, for the root that pkg/cli makes.
func Commands() []*cobra.Command {
	return []*cobra.Command{
		showCommand(), getCommand(), watchCommand(), dumpCommand(), planCommand(),
		applyCommand(), powerCommand(), refreshCommand(), deleteCommand(), cancelCommand(),
		trustCommand(), sclCommand(), versionCommand(),
	}
}

// open is a client of the coordinator that the flags name.
func open(cmd *cobra.Command) (*client.Client, error) {
	path, err := client.Find(cli.State(cmd))
	if err != nil {
		return nil, err
	}
	c, err := client.Load(path)
	if err != nil {
		return nil, err
	}
	return client.Open(c)
}

// with runs f with a client.
func with(cmd *cobra.Command, f func(*client.Client) error) error {
	c, err := open(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c)
}

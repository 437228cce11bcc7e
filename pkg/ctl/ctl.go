// Package ctl is the operators' commands: what is typed to see and to change a
// fleet. Each speaks to a coordinator, or with --agent to the agent of this machine,
// through pkg/client; scripts are checked
// here first, and nothing is sent of one that is wrong.
//
// What a command was asked for goes to stdout, everything else (diagnostics,
// questions, notes, errors) to stderr, which stays empty on success.
package ctl

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
)

// keyFlag is the flag of the commands that sign.
const keyFlag = "key"

func addKeyFlag(cmd *cobra.Command) {
	cmd.Flags().String(keyFlag, "", "sign with the author key in this `file` (default: the context's)")
}

// Authors opens the author of a context: who signs what is sent from here.
type Authors func(client.Context) (client.Author, error)

// Commands are the operators' commands, for the root that pkg/cli makes.
func Commands(authors Authors) []*cobra.Command {
	all := []*cobra.Command{
		showCommand(), getCommand(), watchCommand(), dumpCommand(), planCommand(),
		applyCommand(), powerCommand(), bmcCommand(), refreshCommand(), deleteCommand(), cancelCommand(), rolloutCommand(),
		catalogueCommand(), artifactCommand(), sclCommand(), versionCommand(),
	}
	for _, c := range all {
		authors.give(c)
	}
	return all
}

type authorsKey struct{}

// give lets a command, and those under it, sign.
func (a Authors) give(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		a.give(sub)
	}
	run := cmd.RunE
	if run == nil {
		return
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cmd.SetContext(context.WithValue(cmd.Context(), authorsKey{}, a))
		return run(cmd, args)
	}
}

// open is a client of the coordinator, or the agent, that the flags name.
func open(cmd *cobra.Command) (*client.Client, error) {
	c, err := client.Locate(cli.State(cmd), cli.Agent(cmd))
	if err != nil {
		return nil, err
	}
	if key := cmd.Flags().Lookup(keyFlag); key != nil && key.Changed {
		c.Author = key.Value.String()
	}
	var author client.Author
	if authors, ok := cmd.Context().Value(authorsKey{}).(Authors); ok && authors != nil { // completion has none
		if author, err = authors(c); err != nil {
			return nil, err
		}
	}
	opened, err := client.Open(c, author)
	if err != nil {
		return nil, err
	}
	read(cmd, opened)
	return opened, nil
}

// consistencyFlag of get says how fresh an answer shall be.
const consistencyFlag = "consistency"

// addConsistencyFlag lets a command, and those under it, say how fresh an answer shall be.
func addConsistencyFlag(cmd *cobra.Command) {
	levels := []string{string(client.Stale), string(client.Default), string(client.Linearizable)}
	cmd.PersistentFlags().String(consistencyFlag, string(client.Default), "how fresh: `stale` (what the coordinator that answers knows), default (what the leader knows) or linearizable (misses nothing, or fails)")
	_ = cmd.RegisterFlagCompletionFunc(consistencyFlag, cobra.FixedCompletions(levels, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
}

// read sees to it that answers are as fresh as the flag says, and that a person is
// told, once, if they are old.
func read(cmd *cobra.Command, c *client.Client) {
	if f := cmd.Flags().Lookup(consistencyFlag); f != nil && f.Changed {
		c.Consistency(client.Consistency(f.Value.String()))
	}
	said := map[string]bool{}
	c.OnRemark(func(remark string) {
		if !said[remark] {
			said[remark] = true
			cli.Note(cmd, "%s", remark)
		}
	})
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

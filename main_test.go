package main

import (
	"testing"

	"github.com/spf13/cobra"
)

// Several trees bring commands; one must not hide another's.
func TestEveryCommandIsReached(t *testing.T) {
	for _, path := range [][]string{
		{"trust", "deny"},
		{"trust", "list"},
		{"trust", "explain"},
		{"trust", "author", "init"},
		{"trust", "policy", "show"},
		{"agent", "deny"},
		{"get", "bmcs"},
		{"bmc", "accept"},
		{"audit", "log"},
	} {
		if found, rest, err := command().Find(path); err != nil || len(rest) > 0 {
			t.Errorf("chiba %v leads to %s and leaves %v: %v", path, found.CommandPath(), rest, err)
		}
	}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		seen := map[string]bool{}
		for _, below := range c.Commands() {
			if seen[below.Name()] {
				t.Errorf("%s is there twice", below.CommandPath())
			}
			seen[below.Name()] = true
			walk(below)
		}
	}
	walk(command())
}

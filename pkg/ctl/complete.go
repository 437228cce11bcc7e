package ctl

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/client"
)

// completeTimeout is how long a shell waits for a Tab.
const completeTimeout = time.Second

type completion = []string

// fromFleet completes with what list gets of a coordinator, and with nothing,
// without a word, if there is none.
func fromFleet(list func(context.Context, *client.Client) (completion, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, prefix string) (completion, cobra.ShellCompDirective) {
		c, err := open(cmd)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer c.Close()
		parent := cmd.Context()
		if parent == nil {
			parent = context.Background()
		}
		ctx, cancel := context.WithTimeout(parent, completeTimeout)
		defer cancel()
		all, err := list(ctx, c)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out completion
		for _, s := range all {
			if strings.HasPrefix(s, prefix) {
				out = append(out, s)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

func completeNodes(cmd *cobra.Command, args []string, prefix string) (completion, cobra.ShellCompDirective) {
	return fromFleet(func(ctx context.Context, c *client.Client) (completion, error) {
		nodes, err := c.Nodes(ctx)
		var out completion
		for _, n := range nodes {
			out = append(out, string(n.Name)+"\t"+n.Model)
		}
		return out, err
	})(cmd, args, prefix)
}

// completeFound completes the name of a BMC that was found, or of a node.
func completeFound(cmd *cobra.Command, args []string, prefix string) (completion, cobra.ShellCompDirective) {
	found, _ := fromFleet(func(ctx context.Context, c *client.Client) (completion, error) {
		all, err := c.Found(ctx)
		var out completion
		for _, n := range all {
			out = append(out, string(n.Name)+"\t"+string(n.Admission.State))
		}
		return out, err
	})(cmd, args, prefix)
	nodes, directive := completeNodes(cmd, args, prefix)
	return append(found, nodes...), directive
}

func completeScripts(cmd *cobra.Command, args []string, prefix string) (completion, cobra.ShellCompDirective) {
	return fromFleet(func(ctx context.Context, c *client.Client) (completion, error) {
		scripts, err := c.Scripts(ctx)
		var out completion
		for _, s := range scripts {
			out = append(out, string(s.Name))
		}
		return out, err
	})(cmd, args, prefix)
}

func completeRuns(cmd *cobra.Command, args []string, prefix string) (completion, cobra.ShellCompDirective) {
	return fromFleet(func(ctx context.Context, c *client.Client) (completion, error) {
		runs, err := c.Runs(ctx)
		var out completion
		for _, r := range runs {
			out = append(out, string(r.ID)+"\t"+string(r.Script)+", "+string(r.State))
		}
		return out, err
	})(cmd, args, prefix)
}

// completeFiles completes paths of scripts.
func completeFiles(*cobra.Command, []string, string) (completion, cobra.ShellCompDirective) {
	return completion{"scl"}, cobra.ShellCompDirectiveFilterFileExt
}

// completeShow completes a target, then element references.
func completeShow(cmd *cobra.Command, args []string, prefix string) (completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return elements(prefix), cobra.ShellCompDirectiveNoFileComp
	}
	out, directive := completeNodes(cmd, args, prefix)
	if everything := "all"; strings.HasPrefix(everything, prefix) {
		out = append(completion{"all\tevery node"}, out...)
	}
	return out, directive
}

// completeDump completes a format, then a target.
func completeDump(cmd *cobra.Command, args []string, prefix string) (completion, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		return completion{"json", "xml"}, cobra.ShellCompDirectiveNoFileComp
	case 1:
		return completeShow(cmd, nil, prefix)
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

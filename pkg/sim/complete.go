package sim

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// completeTimeout is how long a shell waits for a Tab.
const completeTimeout = time.Second

// completeArgs completes a node, then a reference if refs is set, then words.
func completeArgs(refs bool, words ...string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		var all []string
		switch {
		case len(args) == 0:
			all = ask(cmd, func(ctx context.Context, c *Client) ([]string, error) {
				nodes, err := c.Nodes(ctx)
				return texts(nodes, func(n Node) string { return string(n.Name) }), err
			})
		case len(args) == 1 && refs:
			all = ask(cmd, func(ctx context.Context, c *Client) ([]string, error) {
				list, err := c.Get(ctx, fleet.NodeName(args[0]), "")
				return texts(list, func(r Reading) string { return r.Ref }), err
			})
		case len(args) == 1 || refs && len(args) == 2:
			all = words
		}
		var out []string
		for _, s := range all {
			if strings.HasPrefix(s, prefix) {
				out = append(out, s)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// ask is what a running simulator answers; nothing, without a word, if none runs.
func ask(cmd *cobra.Command, list func(context.Context, *Client) ([]string, error)) []string {
	c, err := Dial(stateDir(cmd))
	if err != nil {
		return nil
	}
	defer c.Close()
	parent := cmd.Context()
	if parent == nil {
		parent = context.Background()
	}
	ctx, cancel := context.WithTimeout(parent, completeTimeout)
	defer cancel()
	out, err := list(ctx, c)
	if err != nil {
		return nil
	}
	return out
}

func texts[T any](in []T, text func(T) string) []string {
	out := make([]string, len(in))
	for i, v := range in {
		out[i] = text(v)
	}
	return out
}

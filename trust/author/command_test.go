package author_test

import (
	"context"
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/ctl"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust/author"
)

// A policy that nobody signs is a wrong command line, and the way on is told.
func TestAPolicyNeedsARootKey(t *testing.T) {
	root := cli.NewRoot()
	root.AddCommand(ctl.Trust(author.Trust()...))
	root.SetArgs([]string{"trust", "policy", "sign", "policy.json"})
	err := root.ExecuteContext(context.Background())
	if cli.Code(err) != cli.Usage || !strings.Contains(fault.HintOf(err), "--root-key") {
		t.Errorf("%v, with hint %q", err, fault.HintOf(err))
	}
}

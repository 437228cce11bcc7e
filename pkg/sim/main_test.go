package sim

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/chiba-mesh/chiba/pkg/cli"
)

func TestMain(m *testing.M) {
	testscript.Main(leakFree{m}, map[string]func(){"chiba": chiba})
}

// leakFree fails a run that leaves a goroutine behind. The responder's library
// announces in the background for up to four seconds and can't be told to stop.
type leakFree struct{ m *testing.M }

func (l leakFree) Run() int {
	code := l.m.Run()
	if err := goleak.Find(goleak.IgnoreAnyFunction("github.com/grandcat/zeroconf.(*Server).probe")); err != nil && code == 0 {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	return code
}

func chiba() {
	root := cli.NewRoot()
	root.AddCommand(Command())
	os.Exit(cli.Main(root))
}

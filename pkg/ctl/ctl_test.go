package ctl_test

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/client/clienttest"
	"github.com/chiba-mesh/chiba/pkg/ctl"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"chiba": func() {
		root := cli.NewRoot()
		root.AddCommand(ctl.Commands(clienttest.Authors)...)
		root.AddCommand(ctl.Trust())
		os.Exit(cli.Main(root))
	}})
}

type fleetKey struct{}

// TestCommands runs testdata/*.txtar: each with a coordinator of its own, whose
// fleet is canned; `fleet WORD…` changes it.
func TestCommands(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			dir := filepath.Join(env.WorkDir, client.StateDir)
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			f := newCanned()
			s, err := clienttest.Start(dir, f)
			if err != nil {
				return err
			}
			env.Defer(s.Close)
			env.Values[fleetKey{}] = f
			big := strings.Repeat("; a comment of thirty-two bytes.\n", 5<<20/33)
			files := map[string]string{"latin1.scl": "(config all (asset-tag \"caf\xe9\"))\n", "big.scl": big}
			for name, text := range files {
				if err := os.WriteFile(filepath.Join(env.WorkDir, name), []byte(text), 0o600); err != nil {
					return err
				}
			}
			env.Setenv("TZ", "UTC")
			env.Setenv("TERM", "xterm")
			env.Setenv("GORACE", "atexit_sleep_ms=0") // a second per command otherwise
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"fleet": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(ts.Value(fleetKey{}).(*canned).set(args))
			},
			// code N CMD… runs a command that must exit with N.
			"code": exitsWith,
		},
	})
}

// exitsWith runs a command that must exit with a code.
func exitsWith(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: code N COMMAND ARG…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// TestHelp holds every command to a line that says what it does, an example
// that names it, and a group at the top level.
func TestHelp(t *testing.T) {
	root := cli.NewRoot()
	root.AddCommand(ctl.Commands(clienttest.Authors)...)
	root.AddCommand(ctl.Trust())
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		path := cmd.CommandPath()
		switch {
		case cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") || strings.ToLower(cmd.Short[:1]) != cmd.Short[:1]:
			t.Errorf("%s: %q is no line in lower case without a period", path, cmd.Short)
		case !strings.Contains(cmd.Example, path):
			t.Errorf("%s has no example with its name", path)
		case cmd.Parent() == root && !root.ContainsGroup(cmd.GroupID):
			t.Errorf("%s is in no group of the top-level help", path)
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	for _, cmd := range root.Commands() {
		walk(cmd)
	}
}

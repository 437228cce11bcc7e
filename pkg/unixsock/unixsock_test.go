package unixsock_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/unixsock"
)

func TestPathsOfEveryLength(t *testing.T) {
	for _, dir := range []string{"short", strings.Repeat("long/", 30)} {
		path := filepath.Join(t.TempDir(), dir, "a.sock")
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if unixsock.Answers(t.Context(), path) {
			t.Error("somebody answers where nobody listens")
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil { // what a crash left
			t.Fatal(err)
		}
		l, err := unixsock.Listen(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if at, err := os.Stat(path); err != nil || at.Mode().Perm() != 0o600 || at.Mode().Type() != os.ModeSocket {
			t.Errorf("the socket is %v, %v", at.Mode(), err)
		}
		if !unixsock.Answers(t.Context(), path) {
			t.Error("nobody answers")
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 0 {
			t.Errorf("it left %v, %v", left, err)
		}
	}
}

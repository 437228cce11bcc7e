package raftnode_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// A file that lost its end would end the process where nothing can catch it.
func TestADamagedLogIsAnErrorThatSaysWhatToDo(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"index cut short": func(dir string) error { return os.Truncate(filepath.Join(dir, "wal", "wal-meta.db"), 9000) },
		"no segments": func(dir string) error {
			all, err := filepath.Glob(filepath.Join(dir, "wal", "*.wal"))
			if err != nil || len(all) == 0 {
				return os.ErrNotExist
			}
			return os.Remove(all[0])
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			n := open(t, dir)
			n.put(t, "thermal")
			n.close(t)
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			_, err := start(dir, slog.New(slog.DiscardHandler))
			if !fault.Is(err, fault.Garbage) || fault.HintOf(err) == "" {
				t.Errorf("got %v, hint %q", err, fault.HintOf(err))
			}
		})
	}
}

package spool_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
)

// A file that lost its end would end the process where nothing can catch it.
func TestADamagedFileIsAnErrorThatSaysWhatToDo(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"cut short": func(path string) error { return os.Truncate(path, 12_288) },
		"garbage":   func(path string) error { return os.WriteFile(path, []byte(strings.Repeat("garbage ", 5000)), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "spool.db")
			s, err := spool.Open(path, spool.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if err = errors.Join(s.Close(), damage(path)); err != nil {
				t.Fatal(err)
			}
			_, err = spool.Open(path, spool.Options{})
			if !fault.Is(err, fault.Garbage) || !strings.Contains(err.Error(), path) || fault.HintOf(err) == "" {
				t.Errorf("got %v, hint %q", err, fault.HintOf(err))
			}
		})
	}
}

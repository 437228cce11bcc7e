package keyfile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/keyfile"
)

func TestOnlyWhatNobodyElseCanReadIsASecret(t *testing.T) {
	group := os.Geteuid() == 0 // root may let a group read
	for mode, good := range map[fs.FileMode]bool{
		0o600: true, 0o400: true, 0o640: group, 0o440: group,
		0o660: false, 0o620: false, 0o604: false, 0o644: false, 0o606: false, 0o610: false,
	} {
		path := filepath.Join(t.TempDir(), "key.pem")
		if err := os.WriteFile(path, []byte("s3cret"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		data, err := keyfile.Read(path)
		if good != (err == nil) || good != (string(data) == "s3cret") {
			t.Errorf("mode %04o: read %d bytes, %v; want it read: %v", mode, len(data), err, good)
		}
		if good {
			continue
		}
		if !fault.Is(err, fault.Denied) || !strings.Contains(fault.HintOf(err), "chmod 600 "+path) {
			t.Errorf("mode %04o: %v, hint %q", mode, err, fault.HintOf(err))
		}
	}
}

// A group may read what root has given it, and not what anybody else has.
func TestAGroupReadsForRootAlone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chown(path, 1, 1), os.Chmod(path, 0o640)); err != nil {
		t.Fatal(err)
	}
	if _, err := keyfile.Read(path); !fault.Is(err, fault.Denied) {
		t.Errorf("got %v, want it refused", err)
	}
}

func TestWhatIsNoSecret(t *testing.T) {
	dir := t.TempDir()
	if _, err := keyfile.Read(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := keyfile.Read(dir); !fault.Is(err, fault.BadInput) {
		t.Errorf("a directory: %v", err)
	}
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, make([]byte, 1<<20+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keyfile.Read(large); !fault.Is(err, fault.TooLarge) {
		t.Errorf("a large one: %v", err)
	}
}

package trust_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/chiba-mesh/chiba/trust"
)

// What a crash left beside the file neither lends it its mode nor stays.
func TestWriteFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path+".new", []byte("half of i"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two"} {
		if err := trust.WriteFile(path, 0o600, []byte(text)); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != text {
			t.Errorf("it holds %q, %v", got, err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	if _, err := os.Stat(path + ".new"); err == nil {
		t.Error("something is left beside it")
	}
	if err := trust.WriteFile(filepath.Join(path, "below"), 0o600, nil); err == nil {
		t.Error("a file below a file was written")
	}
}

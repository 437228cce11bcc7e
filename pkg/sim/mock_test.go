package sim

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

func tree(t *testing.T, dir string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "index.json"), []byte(`{"@odata.id":"/redfish/v1"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestMocksAreNodes(t *testing.T) {
	state, dir := t.TempDir(), tree(t, filepath.Join(t.TempDir(), "dell"))
	open := func(mocks ...string) (*Rack, error) {
		cfg := Config{Dir: state, Quiet: true}
		for _, text := range mocks {
			m, err := parseMock(text)
			if err != nil {
				return nil, err
			}
			cfg.Mocks = append(cfg.Mocks, m)
		}
		return Open(t.Context(), cfg)
	}
	r, err := open(dir, "other="+dir)
	if err != nil {
		t.Fatal(err)
	}
	nodes := r.Nodes()
	r.Close()
	if len(nodes) != 2 || nodes[0].Name != "dell" || nodes[1].Name != "other" || nodes[0].Pin == nodes[1].Pin || nodes[0].Pin == "" {
		t.Errorf("got %+v", nodes)
	}
	for _, bad := range [][]string{{"x="}, {"a b=" + dir}, {dir, dir}, {t.TempDir()}} {
		if r, err := open(bad...); err == nil || fault.KindOf(err) != fault.BadInput || fault.HintOf(err) == "" {
			t.Errorf("%v: %v", bad, err)
			if r != nil {
				r.Close()
			}
		}
	}
}

package image

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNeeds(t *testing.T) {
	for _, c := range []struct {
		name, module string
		want         []string
	}{
		{"two", "ELF\x00license=GPL\x00depends=libphy,of_mdio\x00name=ftgmac100\x00", []string{"libphy", "of_mdio"}},
		{"one", "\x00depends=sdhci-pltfm\x00", []string{"sdhci_pltfm"}},
		{"none", "\x00depends=\x00name=x\x00", []string{}},
		{"silent", "ELF", nil},
		{"another key", "\x00softdepends=a\x00", nil},
	} {
		if diff := cmp.Diff(c.want, needs([]byte(c.module))); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestOrder(t *testing.T) {
	tree := map[string]string{
		"card": "phy mdio", "mdio": "bus phy", "bus": "phy", "phy": "", "ext4": "jbd2", "jbd2": "",
		"a": "b", "b": "c", "c": "a",
	}
	missing := errors.New("there is no module")
	needs := func(module string) ([]string, error) {
		text, known := tree[module]
		if !known {
			return nil, missing
		}
		return strings.Fields(text), nil
	}
	for _, c := range []struct{ wanted, want, err string }{
		{"card ext4", "phy bus mdio card jbd2 ext4", ""},
		{"phy card phy", "phy bus mdio card", ""},
		{"", "", ""},
		{"card wifi", "", "there is no module"},
		{"a", "", "the kernel's modules need each other in a circle: a, b, c, a"},
	} {
		got, err := order(strings.Fields(c.wanted), needs)
		if strings.Join(got, " ") != c.want || text(err) != c.err {
			t.Errorf("%s: %v, %v; want %s, %q", c.wanted, got, err, c.want, c.err)
		}
	}
}

func TestModuleFiles(t *testing.T) {
	dir := t.TempDir()
	if _, err := moduleFiles(dir); err == nil {
		t.Error("no modules are no error")
	}
	path := filepath.Join(dir, "drivers", "sdhci-of-aspeed.ko")
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o600),
		os.WriteFile(filepath.Join(dir, "modules.order"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	got, err := moduleFiles(dir)
	if diff := cmp.Diff(map[string]string{"sdhci_of_aspeed": path}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

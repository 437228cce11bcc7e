package image

import (
	"bytes"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// wanted are the modules that a guest can't do without, in the order in which they
// shall come: the bus and the PHY before the network card that looks for them, the
// eMMC and its file system. What they need themselves changes between kernels and
// is read from them.
var wanted = []string{"mdio_aspeed", "realtek", "ftgmac100", "sdhci_of_aspeed", "crc32c_generic", "ext4"}

// order is the wanted modules and all that they need, each after what it needs.
func order(wanted []string, needs func(module string) ([]string, error)) ([]string, error) {
	var out []string
	var add func(module string, above []string) error
	add = func(module string, above []string) error {
		if slices.Contains(out, module) {
			return nil
		}
		if slices.Contains(above, module) {
			return fmt.Errorf("the kernel's modules need each other in a circle: %s", strings.Join(append(above, module), ", "))
		}
		below, err := needs(module)
		if err != nil {
			return err
		}
		for _, b := range below {
			if err := add(b, append(above, module)); err != nil {
				return err
			}
		}
		out = append(out, module)
		return nil
	}
	for _, module := range wanted {
		if err := add(module, nil); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// needs are the modules that a module says it needs, in its section .modinfo, which
// is a row of texts "key=value" that end with a zero byte.
func needs(module []byte) []string {
	const key = "\x00depends="
	_, after, found := bytes.Cut(module, []byte(key))
	if !found {
		return nil
	}
	list, _, _ := bytes.Cut(after, []byte{0})
	return strings.FieldsFunc(moduleName(string(list)), func(r rune) bool { return r == ',' })
}

// moduleFiles are the modules below dir: name to path. A name has '_' where its
// file, and who needs it, may have '-'.
func moduleFiles(dir string) (map[string]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if name, is := strings.CutSuffix(filepath.Base(path), ".ko"); is && err == nil {
			files[moduleName(name)] = path
		}
		return err
	})
	if err == nil && len(files) == 0 {
		err = fault.New(fault.NotFound, "look for kernel modules", "there are none in "+dir)
	}
	return files, err
}

func moduleName(text string) string { return strings.ReplaceAll(text, "-", "_") }

package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/filelock"
)

// Kit is a directory with what all guests boot from.
type Kit struct{ dir string }

// Kernel is the path of the unpacked kernel in its uImage.
func (k Kit) Kernel() string { return filepath.Join(k.dir, "armmp.uImage") }

// DeviceTree is the path of the board's device tree.
func (k Kit) DeviceTree() string { return filepath.Join(k.dir, board) }

func (k Kit) modules() string { return filepath.Join(k.dir, "modules") }

const board = "aspeed-ast2600-evb.dtb"

// fetchPatience is how long one run waits for another that fetches.
const fetchPatience = 5 * time.Minute

// Fetch is the kit in the cache directory, fetched from Debian if it is not there
// yet; fetched says whether it had to be. It is there whole or not at all. To have
// a newer kernel remove the directory.
func Fetch(ctx context.Context, cache string) (kit Kit, fetched bool, err error) {
	kit = Kit{dir: filepath.Join(cache, "armmp")}
	if err = os.MkdirAll(cache, 0o755); err != nil {
		return kit, false, fault.Wrap(fault.Unavailable, "make the cache", err)
	}
	lock, err := filelock.Take(filepath.Join(cache, "lock"), fetchPatience)
	if err != nil {
		return kit, false, fault.Wrap(fault.Unavailable, "wait for another run to fetch the kernel", err)
	}
	defer func() { _ = lock.Close() }()
	if _, err = os.Stat(kit.dir); !errors.Is(err, fs.ErrNotExist) {
		return kit, false, err
	}
	work := filepath.Join(cache, "fetching")
	if err = os.RemoveAll(work); err != nil {
		return kit, false, err
	}
	defer func() { _ = os.RemoveAll(work) }()
	if err = (apt{work}).download(ctx); err != nil {
		return kit, false, err
	}
	fresh := Kit{dir: filepath.Join(work, "kit")}
	if err = fresh.fill(ctx, filepath.Join(work, "root")); err != nil {
		return kit, false, err
	}
	return kit, true, os.Rename(fresh.dir, kit.dir)
}

// fill takes what is needed out of an unpacked kernel package.
func (k Kit) fill(ctx context.Context, root string) error {
	if err := os.MkdirAll(k.modules(), 0o755); err != nil {
		return err
	}
	vmlinuz, err := one(root, "boot/vmlinuz-*")
	if err != nil {
		return err
	}
	packed, err := os.ReadFile(vmlinuz)
	if err != nil {
		return err
	}
	kernel, err := Unpack(packed, XZ(ctx))
	if err != nil {
		return err
	}
	if err = os.WriteFile(k.Kernel(), UImage(kernel), 0o644); err != nil {
		return err
	}
	if err = copyOne(root, "usr/lib/linux-image-*/"+board, k.DeviceTree()); err != nil {
		return err
	}
	return k.fillModules(filepath.Join(root, "lib", "modules"))
}

// fillModules takes the modules that a guest loads, named so that their names sort
// in the order in which to load them.
func (k Kit) fillModules(dir string) error {
	files, err := moduleFiles(dir)
	if err != nil {
		return err
	}
	content := map[string][]byte{}
	all, err := order(wanted, func(module string) ([]string, error) {
		path, there := files[module]
		if !there {
			return nil, fault.New(fault.NotFound, "look for the kernel module "+module, "the kernel package has none")
		}
		data, readErr := os.ReadFile(path)
		content[module] = data
		return needs(data), readErr
	})
	for i, module := range all {
		err = errors.Join(err, os.WriteFile(filepath.Join(k.modules(), fmt.Sprintf("%02d-%s.ko", i, module)), content[module], 0o644))
	}
	return err
}

func copyOne(dir, pattern, to string) error {
	from, err := one(dir, pattern)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644)
}

// Initrd writes the first root file system of a guest to path: init and the modules.
func (k Kit) Initrd(path, init string) error {
	program, err := os.ReadFile(init)
	if err != nil {
		return fault.Wrap(fault.Unavailable, "read the guest's init", err)
	}
	files := []File{{Path: "init", Mode: 0o755, Data: program}}
	found, err := os.ReadDir(k.modules())
	if err != nil {
		return fault.Wrap(fault.Unavailable, "read the kernel's modules", err)
	}
	for _, m := range found {
		data, err := os.ReadFile(filepath.Join(k.modules(), m.Name()))
		if err != nil {
			return fault.Wrap(fault.Unavailable, "read a kernel module", err)
		}
		files = append(files, File{Path: "modules/" + m.Name(), Mode: 0o644, Data: data})
	}
	return fault.Wrap(fault.Unavailable, "write the guest's root", os.WriteFile(path, CPIO(files), 0o644))
}

// BuildInit compiles the guest's init, a static program for ARMv7, to path. It needs
// the repository, at dir.
func BuildInit(ctx context.Context, dir, path string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "./e2e/qemu/guest")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm", "GOARM=7", "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		return fault.New(fault.Internal, "build the guest's init", fmt.Sprintf("%v\n%s", err, tail(string(said), 15)))
	}
	return nil
}

// flashSize is that of a guest's eMMC: a power of two, as QEMU's card wants it.
const flashSize = 16 << 20

// Flash makes an empty eMMC with a file system at path: what a BMC keeps over a
// reset.
func Flash(ctx context.Context, path string) error {
	file, err := os.Create(path)
	if err != nil {
		return fault.Wrap(fault.Unavailable, "make a flash", err)
	}
	if err := errors.Join(file.Truncate(flashSize), file.Close()); err != nil {
		return fault.Wrap(fault.Unavailable, "make a flash", err)
	}
	return run(ctx, "", "mkfs.ext4", "-q", "-F", path)
}

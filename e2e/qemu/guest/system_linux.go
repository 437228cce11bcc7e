package main

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	flash       = "/flash"
	flashDevice = "/dev/mmcblk0"
	card        = "eth0"
)

// mountSystem mounts what the kernel shows, and makes the console our output: the
// first root file system has no devices.
func mountSystem() error {
	for _, m := range []struct{ kind, at string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", "/tmp"}} {
		if err := mount(m.kind, m.kind, m.at); err != nil {
			return err
		}
	}
	console, err := unix.Open("/dev/console", unix.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open the console: %w", err)
	}
	for fd := range 3 {
		err = errors.Join(err, unix.Dup3(console, fd, 0))
	}
	return err
}

func mount(device, kind, at string) error {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(device, at, kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount %s on %s: %w", device, at, err)
	}
	return nil
}

// feed gives the kernel's pool its first randomness: without it every key would
// wait for seconds.
func (a arguments) feed() error {
	pool, err := os.OpenFile("/dev/random", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = pool.Close() }()
	info := make([]byte, 8, 8+len(a.seed)) // struct rand_pool_info: bits, bytes, content
	binary.NativeEndian.PutUint32(info[0:], uint32(8*len(a.seed)))
	binary.NativeEndian.PutUint32(info[4:], uint32(len(a.seed)))
	info = append(info, a.seed...)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, pool.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info[0])))
	if errno != 0 {
		return errno
	}
	return nil
}

// loadModules loads the modules of the first root file system in the order of their
// names, and then throws them away.
func loadModules() error {
	const dir = "/modules"
	found, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, m := range found {
		file, err := os.Open(filepath.Join(dir, m.Name()))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(file.Fd()), "", 0)
		_ = file.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("%s: %w", m.Name(), err)
		}
	}
	return os.RemoveAll(dir)
}

// mountFlash mounts the eMMC: what the BMC keeps over a restart. The kernel shows the
// device a moment before it can be opened.
func mountFlash() (err error) {
	late := poll(flashDevice, time.Minute, func() bool {
		err = mount(flashDevice, "ext4", flash)
		return !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENXIO)
	})
	return cmp.Or(err, late)
}

// bringUp gives the network card its addresses, and waits until the link-local one
// is ours.
func (a arguments) bringUp() error {
	if err := unix.Sethostname([]byte(a.name)); err != nil {
		return err
	}
	for _, name := range []string{"lo", card} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("switch %s on: %w", name, err)
		}
		if name == card {
			if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: a.ip}); err != nil {
				return fmt.Errorf("give %s to %s: %w", a.ip, name, err)
			}
		}
	}
	return poll("a link-local address", time.Minute, func() bool { return linkLocal() != nil })
}

// linkLocal is the card's own IPv6 address, nil while another may still have it.
func linkLocal() net.IP {
	link, err := netlink.LinkByName(card)
	if err != nil {
		return nil
	}
	all, err := netlink.AddrList(link, netlink.FAMILY_V6)
	if err != nil {
		return nil
	}
	for _, a := range all {
		if a.IP.IsLinkLocalUnicast() && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 {
			return a.IP
		}
	}
	return nil
}

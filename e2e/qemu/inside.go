//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	segment = "rack0" // the TAP on the guests' segment
	host    = "10.77.0.1/24"
	// insideVar says to a child that it is the one in the namespaces.
	insideVar = "CHIBA_QEMU_INSIDE"
)

// inside is this program again, in namespaces of its own: it is their process 1, so
// everything it starts ends with it, its interfaces go with the network, and its
// files with the mounts. It is killed when the calling thread ends, so nothing of
// all that outlives us, however we die.
func inside(ctx context.Context, o options) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", o.args()...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopPatience
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	return cmd
}

// furnish makes the namespaces a place to live in: dir becomes a directory in
// memory that nobody else sees, and our working directory, because the paths of
// sockets must be short.
func furnish(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep our mounts to ourselves: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("chiba-qemu", dir, "tmpfs", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount memory on %s: %w", dir, err)
	}
	return os.Chdir(dir)
}

// switchOn gives an interface an address and switches it on.
func switchOn(name, address string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if address != "" {
		a, err := netlink.ParseAddr(address)
		if err == nil {
			err = netlink.AddrAdd(link, a)
		}
		if err != nil {
			return fmt.Errorf("give %s to %s: %w", address, name, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("switch %s on: %w", name, err)
	}
	return nil
}

// dieWithParent has the kernel kill us when who started us, such as make, is killed.
func dieWithParent() error {
	return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
}

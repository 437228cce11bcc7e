package raftnode_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/coordinator/raftnode"
	"github.com/chiba-mesh/chiba/pkg/fault"
)

// A real disk fills up, in a mount namespace of its own.
func TestAFullDisk(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), fullDir+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || strings.Contains(string(out), "no mounts here") {
		t.Skipf("mount namespaces are not allowed here: %v %s", err, out)
	}
	if err != nil || !strings.HasSuffix(string(out), "done\n") {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("\n%s", out)
}

// fillUp is the child: it ends with "done" if all is as it should be.
func fillUp(dir string) error {
	if err := errors.Join(syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""),
		syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=200m")); err != nil {
		return fmt.Errorf("no mounts here: %w", err)
	}
	if err := refuses(dir); err != nil {
		return err
	}
	return breaks(dir)
}

// fill leaves so many MiB free.
func fill(dir string, leave uint64) error {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return err
	}
	free := s.Bavail * uint64(s.Bsize)
	return os.WriteFile(filepath.Join(dir, "others"), make([]byte, free-leave<<20), 0o600)
}

// refuses: a node that sees the disk fill up refuses what is proposed, says why, and
// goes on by itself when there is room again.
func refuses(dir string) error {
	n, err := start(filepath.Join(dir, "c1"), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	<-n.Ready()
	if _, err = n.Propose(context.Background(), script("before")); err != nil {
		return err
	}
	if err = fill(dir, 50); err != nil {
		return err
	}
	propose := func() error {
		_, proposed := n.Propose(context.Background(), script("s"))
		return proposed
	}
	if err = eventually(propose, func(err error) bool { return err != nil }); !strings.Contains(err.Error(), "is full: ") || fault.HintOf(err) == "" {
		return fmt.Errorf("a full disk is told as %w", err)
	}
	fmt.Println("refused:", err)
	if err = os.Remove(filepath.Join(dir, "others")); err != nil {
		return err
	}
	if err = eventually(propose, func(err error) bool { return err == nil }); err != nil {
		return fmt.Errorf("it does not go on: %w", err)
	}
	n.stop()
	return errors.Join(n.Close(), <-n.ended)
}

// breaks: a disk that is full before anybody measures it ends the node, with what to do;
// it is not started on a full disk; and when there is room again it has lost nothing.
func breaks(dir string) error {
	const plenty = 1 << 40
	conf := raftnode.Config{Dir: filepath.Join(dir, "c1"), Name: "c1", Log: slog.New(slog.DiscardHandler)}
	blind := conf
	blind.Room = func() (free, total uint64, err error) { return plenty, plenty, nil }
	n, err := startWith(blind)
	if err != nil {
		return err
	}
	<-n.Ready()
	if err = fill(dir, 1); err != nil {
		return err
	}
	kept := 0
	for ; ; kept++ {
		c := script(fmt.Sprint("s", kept))
		c.GetPutScript().GetScript().File = strings.Repeat("x", 4<<20)
		if _, err = n.Propose(context.Background(), c); err != nil {
			break
		}
	}
	fmt.Println("after", kept, "commands:", err)
	if err = <-n.ended; !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "write the log") || fault.HintOf(err) == "" {
		return fmt.Errorf("it ended with %w", err)
	}
	fmt.Println("ended:", err)
	if err = n.Close(); err != nil {
		return err
	}
	if _, err = startWith(conf); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "the disk is full") {
		return fmt.Errorf("it is started on a full disk: %w", err)
	}
	fmt.Println("not started:", err)
	if err = os.Remove(filepath.Join(dir, "others")); err != nil {
		return err
	}
	if n, err = startWith(conf); err != nil {
		return err
	}
	<-n.Ready()
	for i := range kept {
		if _, ok := n.machine.Script(fmt.Sprint("s", i)); !ok {
			return fmt.Errorf("s%d of %d is lost", i, kept)
		}
	}
	if _, err = n.Propose(context.Background(), script("again")); err != nil {
		return err
	}
	n.stop()
	return errors.Join(n.Close(), <-n.ended)
}

// eventually does f until what it returns is good, for some seconds at most.
func eventually(f func() error, good func(error) bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for over := time.Now().Add(20 * time.Second); ; <-tick.C {
		if err := f(); good(err) || time.Now().After(over) {
			return err
		}
	}
}

// fullDisk is the child process of TestAFullDisk.
func fullDisk(dir string) {
	if err := fillUp(dir); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println("done")
}

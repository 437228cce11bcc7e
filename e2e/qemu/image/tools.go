// Package image gets and builds what a guest boots from: Debian's own ARM kernel
// and modules, fetched by apt and kept in a cache, and a first root file system
// whose init is a Go program.
package image

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// A tool is a program on this machine and the Debian package that it comes in.
type tool struct{ program, pkg string }

// tools are what building and running guests needs besides Go.
var tools = []tool{
	{"qemu-system-arm", "qemu-system-arm"},
	{"xz", "xz-utils"},
	{"mkfs.ext4", "e2fsprogs"},
}

// Install installs those programs that are missing, and returns the names of their
// packages. It needs root and Debian, and says so if they are not there.
func Install(ctx context.Context) ([]string, error) {
	missing := lacking(tools, func(program string) bool {
		_, err := exec.LookPath(program)
		return err == nil
	})
	if len(missing) == 0 {
		return nil, nil
	}
	names := strings.Join(missing, " ")
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 {
		return nil, fault.New(fault.Unavailable, "install "+names, "that takes root and Debian's apt-get").
			WithHint("install it yourself: apt-get install --no-install-recommends " + names)
	}
	if err := run(ctx, "", "apt-get", "update", "-q"); err != nil {
		return nil, err
	}
	args := append([]string{"install", "-y", "-q", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"}, missing...)
	return missing, run(ctx, "", "apt-get", args...)
}

// lacking are the packages of the tools that are not there.
func lacking(of []tool, there func(program string) bool) []string {
	var missing []string
	for _, t := range of {
		if !there(t.program) {
			missing = append(missing, t.pkg)
		}
	}
	return missing
}

// run runs a program in dir; what it said is in the error.
func run(ctx context.Context, dir, program string, args ...string) error {
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &said, &said
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if err := cmd.Run(); err != nil {
		return fault.New(fault.Unavailable, program+" "+args[0], fmt.Sprintf("%v\n%s", err, tail(said.String(), 15)))
	}
	return nil
}

// tail is the last lines of a text.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

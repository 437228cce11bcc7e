package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

const (
	suite   = "bookworm"
	arch    = "armhf"
	keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
	// meta depends on the newest kernel package of the suite.
	meta = "linux-image-armmp"
)

// apt is an apt of another architecture beside the machine's own: its directories
// are private, so it neither needs nor changes what the machine has configured.
// One suite and no more, because a mirror may have armhf's updates half.
type apt struct{ dir string }

// prepare makes the directories. An empty status file is a machine on which
// nothing is installed.
func (a apt) prepare(ctx context.Context) error {
	mirror, err := mirrorOf(ctx)
	if err != nil {
		return err
	}
	for _, dir := range []string{"etc/preferences.d", "etc/apt.conf.d", "state/lists/partial", "cache/archives/partial"} {
		if err = os.MkdirAll(filepath.Join(a.dir, dir), 0o755); err != nil {
			return err
		}
	}
	source := fmt.Sprintf("deb [arch=%s signed-by=%s] %s %s main\n", arch, keyring, mirror, suite)
	return errors.Join(
		os.WriteFile(filepath.Join(a.dir, "etc", "sources.list"), []byte(source), 0o644),
		os.WriteFile(filepath.Join(a.dir, "state", "status"), nil, 0o644))
}

// mirrorOf is where the machine's own apt gets the suite from.
func mirrorOf(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages").Output()
	if err != nil {
		return "", fault.Wrap(fault.Unavailable, "ask apt for its mirror", err)
	}
	return mirrorIn(string(out))
}

// mirrorIn is the first mirror with the suite, of lines "URI RELEASE COMPONENT".
func mirrorIn(targets string) (string, error) {
	for line := range strings.Lines(targets) {
		if cells := strings.Fields(line); len(cells) == 3 && cells[1] == suite && cells[2] == "main" {
			return cells[0], nil
		}
	}
	e := fault.New(fault.NotFound, "ask apt for its mirror", "this machine has none of Debian "+suite)
	return "", e.WithHint("run it on Debian " + suite + ", or add that suite to apt's sources")
}

// args are the options before a command.
func (a apt) args(command ...string) []string {
	args := []string{"-q"}
	for _, option := range []string{
		"APT::Architecture=" + arch, "APT::Architectures::=" + arch, "APT::Sandbox::User=root",
		"Acquire::Languages=none", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false", "Acquire::Retries=3",
		"Dir::Etc=" + filepath.Join(a.dir, "etc"), "Dir::State=" + filepath.Join(a.dir, "state"),
		"Dir::State::status=" + filepath.Join(a.dir, "state", "status"), "Dir::Cache=" + filepath.Join(a.dir, "cache"),
	} {
		args = append(args, "-o", option)
	}
	return append(args, command...)
}

// download gets the newest kernel package into the directory and unpacks it there.
func (a apt) download(ctx context.Context) error {
	if err := a.prepare(ctx); err != nil {
		return fault.Wrap(fault.Unavailable, "make apt's directories", err)
	}
	if err := run(ctx, "", "apt-get", a.args("update")...); err != nil {
		return err
	}
	about, err := exec.CommandContext(ctx, "apt-cache", a.args("depends", meta)...).Output()
	if err != nil {
		return fault.Wrap(fault.Unavailable, "look for "+meta, err)
	}
	pkg, err := kernelPackage(string(about))
	if err != nil {
		return err
	}
	if err = run(ctx, a.dir, "apt-get", a.args("download", pkg)...); err != nil {
		return err
	}
	deb, err := one(a.dir, pkg+"_*.deb")
	if err != nil {
		return err
	}
	return run(ctx, "", "dpkg-deb", "-x", deb, filepath.Join(a.dir, "root"))
}

// kernelPackage is the kernel that the meta package depends on, of what
// `apt-cache depends` says.
func kernelPackage(about string) (string, error) {
	for line := range strings.Lines(about) {
		if name, is := strings.CutPrefix(strings.TrimSpace(line), "Depends: linux-image-"); is {
			return "linux-image-" + name, nil
		}
	}
	return "", fault.New(fault.NotFound, "look for "+meta, "it depends on no kernel")
}

// one is the only file that matches.
func one(dir, pattern string) (string, error) {
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err == nil && len(found) != 1 {
		err = fault.New(fault.NotFound, "look for "+pattern, fmt.Sprintf("%d files match, want one", len(found)))
	}
	if err != nil {
		return "", err
	}
	return found[0], nil
}

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/chiba-mesh/chiba/e2e/qemu/image"
	"github.com/chiba-mesh/chiba/e2e/qemu/l2"
	"github.com/chiba-mesh/chiba/e2e/qemu/proc"
	"github.com/chiba-mesh/chiba/pkg/fault"
)

// guest is a running machine.
type guest struct {
	machine
	console *proc.Process // QEMU; what it says is the guest's console
	cable   *l2.Port
}

// equip gives a machine what it boots from, in the working directory.
func (o options) equip(ctx context.Context, m *machine) error {
	if o.image != "" {
		m.image = m.name + ".image"
		return copyFile(o.image, m.image) // it is written to
	}
	kit, _, err := image.Fetch(ctx, o.cache)
	if err != nil {
		return err
	}
	m.kernel, m.deviceTree, m.initrd = kit.Kernel(), kit.DeviceTree(), "initrd"
	if _, err := os.Stat(m.initrd); err != nil {
		if err := kit.Initrd(m.initrd, o.init()); err != nil {
			return err
		}
	}
	return image.Flash(ctx, m.flash)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return fault.New(fault.BadInput, "read the image", err.Error()).WithHint("CHIBA_OPENBMC_IMAGE names the file obmc-phosphor-image-romulus.static.mtd")
	}
	defer func() { _ = in.Close() }()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// keep opens the file that keeps what a process says.
func (o options) keep(name string) (*os.File, error) {
	return os.Create(filepath.Join(o.logs, name+".log"))
}

// start starts QEMU; the switch's port must be there.
func (o options) start(m machine, cable *l2.Port) (*guest, error) {
	keep, err := o.keep(m.name)
	if err != nil {
		return nil, err
	}
	console, err := proc.Start(m.name, keep, "qemu-system-arm", m.arguments()...)
	if err != nil {
		return nil, errors.Join(err, keep.Close())
	}
	return &guest{m, console, cable}, nil
}

// boot waits until the guest has booted, from line from of its console on, and tells
// how far it is.
func (g *guest) boot(ctx context.Context, t teller, from int) error {
	for {
		line, next, err := g.console.Wait(ctx, from, g.ready(), "bmc: ")
		if err != nil {
			return err
		}
		from = next
		what := strings.Join(strings.Fields(strings.TrimPrefix(line, "bmc:")), " ")
		if strings.Contains(line, "failed:") {
			return fmt.Errorf("%s: %s", g.name, what)
		}
		t.say("  %s: %s", g.name, what)
		if strings.Contains(line, g.ready()) {
			return nil
		}
	}
}

// bootAll waits for all guests at once.
func bootAll(ctx context.Context, guests []*guest, t teller) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, g := range guests {
		group.Go(func() error { return g.boot(ctx, t, 0) })
	}
	return group.Wait()
}

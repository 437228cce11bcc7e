// Command guest is the init of a BMC in QEMU: process 1 of a machine with a BMC's
// processor, network card, flash and clock, whose only program is the simulated
// web server of OpenBMC. A restart asked for over Redfish restarts the machine.
//
// It is told who it is on the kernel's command line:
//
//	bmc.name=bmc-1              host name, and the name that mDNS announces
//	bmc.ip=10.77.0.11/24        IPv4 address; besides it has a link-local IPv6 one
//	bmc.seed=HEX                randomness for the kernel's pool: the board has no source
//
// What it says on the console begins with "bmc:", for whoever watches it boot.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// leave is how long a BMC that was told to restart still answers, so that who told
// it has its answer.
const leave = 500 * time.Millisecond

func main() {
	err := boot(context.Background())
	if err != nil {
		say("failed: %v", err)
	}
	unix.Sync()
	// What is mounted is only the flash; it is cleanly left or recovers by its journal.
	_ = unix.Unmount(flash, 0)
	how := unix.LINUX_REBOOT_CMD_RESTART
	if err != nil {
		how = unix.LINUX_REBOOT_CMD_POWER_OFF
	}
	_ = unix.Reboot(how)
	select {} // process 1 must not end
}

// say writes one line on the console, with the time since the kernel began.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stdout, "bmc: %6.2f "+format+"\n", append([]any{uptime().Seconds()}, args...)...)
}

func uptime() time.Duration {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &now)
	return time.Duration(now.Nano())
}

// boot runs the BMC until it shall restart.
func boot(ctx context.Context) error {
	if err := mountSystem(); err != nil {
		return err
	}
	args, err := readArguments()
	if err != nil {
		return err
	}
	say("booting %s", args.name)
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"seed", args.feed}, {"modules", loadModules}, {"flash", mountFlash}, {"network", args.bringUp},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		say("%s", step.name)
	}
	return serve(ctx, args)
}

// poll asks until it is so, or patience ends. A board tells nobody when a card has
// been recognised.
func poll(what string, patience time.Duration, so func() bool) error {
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for deadline := time.Now().Add(patience); !so(); <-again.C {
		if time.Now().After(deadline) {
			return errors.New(what + " did not come within " + patience.String())
		}
	}
	return nil
}

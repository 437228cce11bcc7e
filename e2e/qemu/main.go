//go:build linux

// Command qemu drives Chiba against BMCs in machines of their own: a BMC's
// processor, network card, flash and clock in QEMU, on an Ethernet segment with the
// agent, from the first mDNS answer to a script that is still in force after the BMC
// was reset and woke up in 1970. `make e2e-qemu` runs it; DESIGN.md says how it is
// built.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/chiba-mesh/chiba/e2e/qemu/image"
	"github.com/chiba-mesh/chiba/pkg/fault"
)

const (
	// runPatience bounds a run; each of its waits is shorter.
	runPatience  = 20 * time.Minute
	stopPatience = 10 * time.Second
	maxGuests    = 4
)

// options are a run's, as flags. A child in the namespaces gets the same.
type options struct {
	chiba, repo, cache, logs, image string
	count                           int // of guests
	began                           int64
	killTest, takeover              bool
}

func readOptions() (options, error) {
	var o options
	flag.StringVar(&o.chiba, "chiba", "bin/chiba", "the chiba to test")
	flag.StringVar(&o.repo, "repo", ".", "the repository, to build the guests' init from")
	flag.StringVar(&o.cache, "cache", cacheDir(os.Getenv), "where to keep what is fetched")
	flag.StringVar(&o.logs, "logs", "", "where to keep consoles and logs of the last run (default last, in the cache)")
	flag.StringVar(&o.image, "image", os.Getenv("CHIBA_OPENBMC_IMAGE"), "a flash image of OpenBMC for romulus, instead of our guests")
	flag.IntVar(&o.count, "guests", 2, "how many BMCs, 2 to 4")
	flag.BoolVar(&o.killTest, "kill-test", true, "at the end see that a run that is killed leaves nothing behind")
	flag.BoolVar(&o.takeover, "takeover", true, "have the agent make the BMCs the rack's own")
	flag.Int64Var(&o.began, "began", time.Now().UnixNano(), "when the run began, for the times in its log")
	flag.Parse()
	if o.image != "" {
		o.count = 1
	} else if o.count < 2 || o.count > maxGuests {
		return o, fault.New(fault.BadInput, "", fmt.Sprintf("-guests %d: it takes 2 to %d", o.count, maxGuests))
	}
	if o.logs == "" {
		o.logs = filepath.Join(o.cache, "last")
	}
	for _, path := range []*string{&o.chiba, &o.repo, &o.cache, &o.logs, &o.image} {
		if *path == "" {
			continue
		}
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return o, err
		}
		*path = absolute
	}
	return o, nil
}

// cacheDir is where what is fetched is kept, outside of the repository.
func cacheDir(env func(string) string) string {
	if dir := env("CHIBA_CACHE"); dir != "" {
		return filepath.Join(dir, "qemu")
	}
	base := env("XDG_CACHE_HOME")
	if base == "" {
		base = filepath.Join(env("HOME"), ".cache")
	}
	return filepath.Join(base, "chiba", "qemu")
}

// args are the flags for a child.
func (o options) args() []string {
	return []string{
		"-chiba", o.chiba, "-repo", o.repo, "-cache", o.cache, "-logs", o.logs, "-image", o.image, "-guests", strconv.Itoa(o.count),
		"-began", strconv.FormatInt(o.began, 10), "-kill-test=" + strconv.FormatBool(o.killTest),
		"-takeover=" + strconv.FormatBool(o.takeover),
	}
}

// The places in the cache: the guests' init, and the folder that each run hides below
// memory of its own.
func (o options) init() string { return filepath.Join(o.cache, "init") }
func (o options) work() string { return filepath.Join(o.cache, "run") }

func main() {
	// The namespaces end with the thread that made them: it must stay.
	runtime.LockOSThread()
	o, err := readOptions()
	if err == nil {
		err = run(o)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "e2e-qemu: error: %v\n", err)
		if hint := fault.HintOf(err); hint != "" {
			fmt.Fprintf(os.Stderr, "e2e-qemu: hint: %s\n", hint)
		}
		os.Exit(1)
	}
}

func run(o options) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, runPatience, fmt.Errorf("the run took more than %s", runPatience))
	defer cancel()
	t := teller{os.Stdout, time.Unix(0, o.began)}
	if os.Getenv(insideVar) != "" {
		return play(ctx, o, t)
	}
	if err := dieWithParent(); err != nil {
		return err
	}
	if err := prepare(ctx, o, t); err != nil {
		return err
	}
	if err := inside(ctx, o).Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fault.Wrap(fault.Internal, "the run", err)
	}
	if o.killTest && o.image == "" {
		if err := killed(ctx, o, t); err != nil {
			return err
		}
	}
	t.say("passed")
	return nil
}

// prepare sees that everything is there that a run needs.
func prepare(ctx context.Context, o options, t teller) error {
	if os.Geteuid() != 0 {
		return fault.New(fault.Denied, "make a network for the guests", "only root may").
			WithHint("sudo make e2e-qemu, or run it in a container or machine where you are root")
	}
	if _, err := os.Stat(o.chiba); err != nil {
		return fault.New(fault.NotFound, "look for the chiba to test", err.Error()).WithHint("make build")
	}
	for _, dir := range []string{o.work(), o.logs} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	installed, err := image.Install(ctx)
	if err != nil {
		return err
	}
	t.say("QEMU and tools: %s", or(installed, "all there"))
	if o.image != "" {
		t.say("image: %s", o.image)
		return nil
	}
	_, fetched, err := image.Fetch(ctx, o.cache)
	if err != nil {
		return err
	}
	how := "was there"
	if fetched {
		how = "fetched from Debian"
	}
	t.say("kernel for the guests: %s, kept in %s", how, o.cache)
	if err := image.BuildInit(ctx, o.repo, o.init()); err != nil {
		return err
	}
	t.say("the guests' init is built")
	return nil
}

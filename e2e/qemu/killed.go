//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/e2e/qemu/proc"
)

// vanish is how long the kernel may take to bury what was killed.
const vanish = 20 * time.Second

// killed starts a run, kills it with SIGKILL while its guests boot, and sees that
// no process, network, mount or file of it is left.
func killed(ctx context.Context, o options, t teller) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	o.killTest, o.began = false, time.Now().UnixNano()
	o.logs = filepath.Join(o.logs, "killed")
	before, err := tracesOf(nil)
	if err != nil {
		return err
	}
	p, err := proc.Start("the run to be killed", new(bytes.Buffer), "/proc/self/exe", o.args()...)
	if err != nil {
		return err
	}
	defer func() { _ = p.Stop(0) }()
	if _, _, err = p.Wait(ctx, 0, " booting "); err != nil {
		return fmt.Errorf("%w\n%s", err, indent(p.Tail(10)))
	}
	family, err := descendants(p.PID())
	if err != nil {
		return err
	}
	alive, err := tracesOf(family)
	if err != nil {
		return err
	}
	if want := 1 + o.count; len(alive.processes) < want || len(alive.networks) == 0 {
		return fmt.Errorf("the run to be killed has %d processes and %d networks of its own; at least %d and one were to be seen",
			len(alive.processes), len(alive.networks), want)
	}
	p.Kill()
	began := time.Now()
	for {
		left, err := alive.left(before, o.work())
		if err != nil {
			return err
		}
		if len(left) == 0 {
			break
		}
		if time.Since(began) > vanish {
			return fmt.Errorf("a run that was killed left behind:\n%s", indent(strings.Join(left, "\n")))
		}
		<-time.After(again)
	}
	t.say("a second run was killed (kill -9) while its guests booted: none of its %d processes is left, no network, mount or file",
		len(alive.processes))
	return nil
}

// traces are what a run leaves in the kernel while it lives.
type traces struct {
	processes map[string]string // process and its start: its name
	networks  map[string]bool   // network namespaces other than ours
	mounts    []string          // all that we see
	links     []string          // network interfaces that we see
}

// tracesOf are those of these processes, and what else is to be seen from here.
func tracesOf(pids []int) (traces, error) {
	t := traces{processes: map[string]string{}, networks: map[string]bool{}}
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return t, err
	}
	for _, pid := range pids {
		s, gone := readStat(pid)
		if gone != nil {
			continue
		}
		t.processes[s.key()] = s.name
		if network := networkOf(pid); network != "" && network != ours {
			t.networks[network] = true
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return t, err
	}
	t.mounts = strings.Split(string(mounts), "\n")
	links, err := os.ReadDir("/sys/class/net")
	for _, l := range links {
		t.links = append(t.links, l.Name())
	}
	return t, err
}

// left says what is still there of t, and what is new since before.
func (t traces) left(before traces, work string) ([]string, error) {
	var out []string
	all, err := pids()
	if err != nil {
		return nil, err
	}
	for _, pid := range all {
		s, gone := readStat(pid)
		if gone != nil || s.buried() {
			continue
		}
		if t.processes[s.key()] != "" {
			out = append(out, fmt.Sprintf("process %d, %s", pid, s.name))
		} else if network := networkOf(pid); t.networks[network] {
			out = append(out, fmt.Sprintf("the network %s, of process %d, %s", network, pid, s.name))
		}
	}
	now, err := tracesOf(nil)
	if err != nil {
		return nil, err
	}
	for _, line := range now.mounts {
		if !slices.Contains(before.mounts, line) && (strings.Contains(line, work) || strings.Contains(line, "nsfs")) {
			out = append(out, "the mount "+line)
		}
	}
	for _, name := range now.links {
		if !slices.Contains(before.links, name) {
			out = append(out, "the interface "+name)
		}
	}
	files, err := os.ReadDir(work)
	for _, f := range files {
		out = append(out, "the file "+filepath.Join(work, f.Name()))
	}
	return out, err
}

func networkOf(pid int) string {
	network, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return "" // it has ended
	}
	return network
}

// stat is what /proc says of a process.
type stat struct {
	pid, parent int
	name, state string
	start       string // in ticks since the kernel's start: a number may come back
}

func (s stat) key() string { return strconv.Itoa(s.pid) + " " + s.start }

// buried reports whether nothing of it is left but its exit status, which whoever
// is process 1 here has not asked for.
func (s stat) buried() bool { return s.state == "Z" || s.state == "X" }

func readStat(pid int) (stat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	return parseStat(string(text))
}

// parseStat reads proc(5)'s stat: number, name in brackets, which may hold anything,
// state, parent, …; the 22nd field is the start.
func parseStat(text string) (stat, error) {
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	bad := errors.New("not a process's stat: " + text)
	if open < 0 || end < open {
		return stat{}, bad
	}
	pid, err := strconv.Atoi(strings.TrimSpace(text[:open]))
	rest := strings.Fields(text[end+1:])
	if err != nil || len(rest) < 20 {
		return stat{}, bad
	}
	parent, err := strconv.Atoi(rest[1])
	if err != nil {
		return stat{}, bad
	}
	return stat{pid: pid, parent: parent, name: text[open+1 : end], state: rest[0], start: rest[19]}, nil
}

// pids are the processes that there are.
func pids() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var out []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			out = append(out, pid)
		}
	}
	return out, nil
}

// descendants are a process, its children, theirs, and so on.
func descendants(of int) ([]int, error) {
	all, err := pids()
	if err != nil {
		return nil, err
	}
	parents := map[int]int{}
	for _, pid := range all {
		if s, err := readStat(pid); err == nil {
			parents[pid] = s.parent
		}
	}
	return below(parents, of), nil
}

// below is root and all whose chain of parents leads to it.
func below(parents map[int]int, root int) []int {
	var out []int
	for pid := range parents {
		at := pid
		for at != root && parents[at] != 0 {
			at = parents[at]
		}
		if at == root {
			out = append(out, pid)
		}
	}
	slices.Sort(out)
	return out
}

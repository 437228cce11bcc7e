package bench

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// cpu is the time that this process and its ended children have computed, in s.
func cpu() float64 {
	total := 0.0
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if syscall.Getrusage(who, &u) == nil {
			total += float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
		}
	}
	return total
}

// cpuOf is the time that another process has computed, in s; 0 if the system does
// not say. Linux counts it in hundredths.
func cpuOf(pid int) float64 {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	return cpuIn(string(text))
}

// cpuIn reads the fields utime and stime of a line of proc_pid_stat(5). The name
// of the program before them may hold anything.
func cpuIn(line string) float64 {
	const utime, stime, perSecond = 11, 12, 100 // counted from behind the name
	rest := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
	if len(rest) <= stime {
		return 0
	}
	user, _ := strconv.ParseFloat(rest[utime], 64)
	system, _ := strconv.ParseFloat(rest[stime], 64)
	return (user + system) / perSecond
}

// What Linux's /proc/PID/status tells of memory: now, and at most ever. ru_maxrss is
// no use: it begins at the parent's.
const (
	residentNow  = "VmRSS:"
	residentPeak = "VmHWM:"
)

// resident is one line of a process's status in bytes, 0 if the system does not say.
func resident(pid int, field string) float64 {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, found := strings.CutPrefix(lines.Text(), field); found {
			var kb float64
			_, _ = fmt.Sscanf(rest, "%g", &kb)
			return kb * 1024
		}
	}
	return 0
}

// loadBefore is the mean number of processes that wanted a core in the last minute,
// 0 if the system does not say. Times that were measured beside others are theirs too.
func loadBefore() float64 {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), " ")
	load, _ := strconv.ParseFloat(first, 64)
	return load
}

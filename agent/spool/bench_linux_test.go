package spool_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// record is about as large as a result.
var record = strings.Repeat("x", 1000)

// BenchmarkAppend is many writers at once, each of which waits until its record is on
// the disk; they share commits. The goal is 20,000 records a second.
func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s := open(b, temp(b))
			b.SetParallelism(max(1, writers/runtime.GOMAXPROCS(0)))
			began := cpu(b)
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					add(b, s, record)
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64((cpu(b)-began).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}

// BenchmarkAppendLatency is one record at a time, until it is on the disk. The goal is
// 0.5 ms at the median. bbolt syncs twice in a commit, its pages and then the page that
// makes them valid: what two syncs of a page each cost on the same disk at the same time
// stands beside it, for a machine that does other things as well.
func BenchmarkAppendLatency(b *testing.B) {
	s, bare := open(b, temp(b)), bareFile(b)
	var took, floor []time.Duration
	began := cpu(b)
	for b.Loop() {
		at := time.Now()
		add(b, s, record)
		took = append(took, time.Since(at))
		at = time.Now()
		bare()
		bare()
		floor = append(floor, time.Since(at))
	}
	slices.Sort(took)
	slices.Sort(floor)
	us := func(all []time.Duration, percent int) float64 {
		return float64(all[len(all)*percent/100].Microseconds())
	}
	b.ReportMetric(us(took, 50), "µs/p50")
	b.ReportMetric(us(took, 99), "µs/p99")
	b.ReportMetric(us(floor, 50), "µs/two-syncs-p50")
	b.ReportMetric(float64((cpu(b)-began).Microseconds())/float64(b.N), "cpu-µs/op")
}

// bareFile writes a page of a file that has its size, and syncs it.
func bareFile(b *testing.B) func() {
	b.Helper()
	f, err := os.Create(filepath.Join(b.TempDir(), "bare"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = f.Close() })
	page := make([]byte, 4096)
	write := func() {
		if _, err := f.WriteAt(page, 0); err != nil {
			b.Fatal(err)
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
	}
	write()
	return write
}

// cpu is what this process has computed.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

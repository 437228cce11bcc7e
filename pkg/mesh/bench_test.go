package mesh_test

import (
	"bytes"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// echo is a channel whose other end answers every message with itself, over real QUIC
// and mutual TLS; both ends are in this process.
func echo(b *testing.B) *mesh.Channel {
	b.Helper()
	client, server := newPort(b).pair()
	near, err := client.Open(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	out := mesh.NewChannel(near, 0)
	if err = out.Send(&pb.Drain{}); err != nil {
		b.Fatal(err)
	}
	far, err := server.Accept(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	back := mesh.NewChannel(far, 0)
	if err = back.Receive(&pb.Drain{}); err != nil {
		b.Fatal(err)
	}
	go func() {
		var m pb.Query
		for back.Receive(&m) == nil && back.Send(&m) == nil {
		}
	}()
	return out
}

// 256 bytes, as a control message of middling size.
func message() *pb.Query { return &pb.Query{Source: bytes.Repeat([]byte("x"), 250)} }

// cpu is what this process has computed, which others beside it change less than the
// time that it took.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// used is what each round has cost at both ends since then, in µs.
func used(b *testing.B, since time.Duration) float64 {
	b.Helper()
	return float64((cpu(b) - since).Nanoseconds()) / 1e3 / float64(b.N)
}

// BenchmarkUnary is one question and its answer at a time.
func BenchmarkUnary(b *testing.B) {
	ch := echo(b)
	var took []time.Duration
	m, answer, began := message(), &pb.Query{}, cpu(b)
	for b.Loop() {
		at := time.Now()
		if err := ch.Send(m); err != nil {
			b.Fatal(err)
		}
		if err := ch.Receive(answer); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(at))
	}
	slices.Sort(took)
	b.ReportMetric(used(b, began), "cpu-µs/op")
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs/p50")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs/p99")
}

// BenchmarkControl is 64 questions under way at once on one stream.
func BenchmarkControl(b *testing.B) {
	ch := echo(b)
	slots := make(chan struct{}, 64)
	n := max(b.N, 1)
	b.ResetTimer()
	began := cpu(b)
	failed := make(chan error, 1)
	go func() {
		m := message()
		for range n {
			slots <- struct{}{}
			if err := ch.Send(m); err != nil {
				failed <- err
				return
			}
		}
		failed <- nil
	}()
	answer := &pb.Query{}
	for range n {
		if err := ch.Receive(answer); err != nil {
			b.Fatal(err)
		}
		<-slots
	}
	if err := <-failed; err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(used(b, began), "cpu-µs/op")
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "msg/s")
}

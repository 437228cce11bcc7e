package link

import (
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	for _, c := range []struct {
		rounds int
		part   float64
		want   time.Duration
	}{
		{0, 1, 500 * time.Millisecond},
		{0, 0, 0},
		{1, 0.5, 500 * time.Millisecond},
		{3, 1, 4 * time.Second},
		{5, 1, 16 * time.Second},
		{6, 1, 30 * time.Second},
		{1 << 40, 0.5, 15 * time.Second},
	} {
		if got := backoff(c.rounds, c.part); got != c.want {
			t.Errorf("backoff(%d, %v) = %v, want %v", c.rounds, c.part, got, c.want)
		}
	}
}

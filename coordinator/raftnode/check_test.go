package raftnode_test

import (
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/coordinator/raftnode"
)

func TestWhenTheGroupChecks(t *testing.T) {
	const every = 4096
	for _, c := range []struct {
		name        string
		entries     int64
		since, cost time.Duration
		want        bool
	}{
		{"nothing was committed", 0, time.Hour, 0, false},
		{"the last mark is not applied yet", -1, time.Hour, 0, false},
		{"enough was committed", every, time.Second, time.Millisecond, true},
		{"a little was, just now", every - 1, time.Second, time.Millisecond, false},
		{"a little was, a while ago", 1, 5 * time.Minute, time.Millisecond, true},
		{"the state is large: it rests first", 100 * every, 2 * time.Minute, 3 * time.Second, false},
		{"the state is large, and it has rested", 100 * every, 151 * time.Second, 3 * time.Second, true},
	} {
		if have := raftnode.CheckDue(c.entries, every, c.since, c.cost); have != c.want {
			t.Errorf("%s: %v", c.name, have)
		}
	}
}

package raftnode_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/coordinator/raftnode"
	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
)

// What was committed through one node is known at any other that has caught up.
func TestCatchUp(t *testing.T) {
	g := founded(t)
	for i := range 10 {
		for _, name := range g.names() {
			script := fmt.Sprint(name, "-", i)
			g.put(g.members[name], script)
			for _, other := range g.names() {
				if err := g.members[other].node.CatchUp(t.Context(), true); err != nil {
					t.Fatal(err)
				}
				if !has(g.members[other], script) {
					t.Fatalf("%s has caught up and does not know %s", other, script)
				}
			}
		}
	}
}

// The connection to a leader that was killed looks alive for seconds: who waits for its
// answer asks the next one as soon as that leads.
func TestAQuestionToALeaderThatDiedGoesToTheNext(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	g.network = newNetwork()
	var join []string
	for _, name := range []string{"c1", "c2", "c3"} {
		g.start(name, 3, join...)
		join = append(join, g.members[name].addr)
	}
	g.ready()
	_, asked := g.follower()
	_, leader := g.leader()
	g.network.silence(leader.addr)
	read := make(chan error, 1)
	go func() { read <- asked.node.CatchUp(context.Background(), true) }()
	<-g.network.asked
	leader.node.Yield()
	if err := <-read; err != nil {
		t.Errorf("who asked the one before is told %v", err)
	}
}

// One that is started without the others tells what it knew, and how old that is, and
// refuses writes and fresh reads with the reason; when they are back it goes on.
func TestOneIsStartedWithoutTheOthers(t *testing.T) {
	t.Parallel()
	g := founded(t)
	for i := range 20 {
		g.put(g.members["c1"], fmt.Sprint("kept", i))
	}
	g.same()
	for _, m := range g.members {
		m.kill()
	}
	m := g.start("c3", 3)
	g.ready()
	for i := range 20 {
		if !has(m, fmt.Sprint("kept", i)) {
			t.Fatalf("it does not know kept%d", i)
		}
	}
	if s := m.node.Status(); s.Leader != "" || s.Behind < time.Second || s.Behind > time.Minute || len(s.Members) != 3 {
		t.Errorf("it says %+v", s)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := m.node.Propose(ctx, script("lost")); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "no leader") || fault.HintOf(err) == "" {
		t.Errorf("a write: %v, hint %q", err, fault.HintOf(err))
	}
	for _, verified := range []bool{false, true} {
		short, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if err := m.node.CatchUp(short, verified); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "no leader") {
			t.Errorf("a fresh read, verified %v: %v", verified, err)
		}
		stop()
	}
	g.start("c1", 3)
	g.until("it goes on", func() bool { return m.node.Status().Leader != "" })
	g.put(m, "again")
	g.same()
	if has(m, "lost") {
		t.Error("what was refused was done")
	}
}

// What was noted of the last life is damaged: less is told.
func TestWhatWasKnownIsDamaged(t *testing.T) {
	t.Parallel()
	for name, data := range map[string][]byte{
		"short":   {1, 2},
		"flipped": append(make([]byte, 16), 1, 2, 3, 4),
	} {
		g := founded(t)
		g.put(g.members["c1"], "kept")
		g.same()
		for _, m := range g.members {
			m.kill()
		}
		if err := os.WriteFile(filepath.Join(g.members["c2"].dir, "committed"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		m := g.start("c2", 3)
		g.start("c1", 3)
		g.until(name+": they go on", func() bool { return m.node.Status().Leader != "" && has(m, "kept") })
		g.same()
	}
}

// All publish the digest of the same state for the same entry.
func TestHashes(t *testing.T) {
	g := founded(t)
	_, leader := g.leader()
	for i := range 45 {
		g.put(leader, fmt.Sprint("s", i))
	}
	g.until("all have hashed four times", func() bool {
		for _, m := range g.members {
			if list, _ := m.node.Hashes(); len(list) < 4 {
				g.put(leader, "more")
				return false
			}
		}
		return true
	})
	seen, shared := map[uint64]string{}, 0
	for _, name := range g.names() {
		list, applied := g.members[name].node.Hashes()
		if applied < list[3].GetIndex() {
			t.Errorf("%s has applied %d and hashed %d", name, applied, list[3].GetIndex())
		}
		for _, h := range list {
			if was, ok := seen[h.GetIndex()]; ok {
				shared++
				if was != h.GetHash() {
					t.Errorf("%s differs at %d", name, h.GetIndex())
				}
			}
			seen[h.GetIndex()] = h.GetHash()
		}
	}
	if shared < 2 {
		t.Errorf("only %d digests can be compared", shared)
	}
}

// Before the disk is full nothing is committed any more, whoever is asked, and who
// asks is told why; when there is room again it goes on.
func TestADiskThatFillsUp(t *testing.T) {
	var free atomic.Uint64
	free.Store(1 << 30)
	g := newGroup(t)
	g.room = func(string) (uint64, uint64, error) { return free.Load(), 1 << 30, nil }
	var join []string
	for i := range 3 {
		name := fmt.Sprint("c", i+1)
		g.start(name, 3, join...)
		join = append(join, g.members[name].addr)
	}
	g.ready()
	_, leader := g.leader()
	_, follower := g.follower()
	g.put(follower, "before")
	free.Store(100 << 20) // of the 102 that are a tenth
	for name, m := range map[string]*member{"the leader": leader, "a follower": follower} {
		var err error
		g.until(name+" refuses", func() bool {
			_, err = m.node.Propose(t.Context(), script("full"))
			return err != nil
		})
		if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "100 MiB are free, 102 MiB") || fault.HintOf(err) == "" {
			t.Errorf("%s says %v, hint %q", name, err, fault.HintOf(err))
		}
	}
	free.Store(103 << 20)
	g.until("it goes on", func() bool {
		_, err := follower.node.Propose(t.Context(), script("after"))
		return err == nil
	})
}

// One whose own disk is full keeps what it has, and delays nobody; when there is room it
// gets the rest by itself.
func TestTheDiskOfOneFillsUp(t *testing.T) {
	t.Parallel()
	var full atomic.Pointer[string]
	full.Store(new(string))
	g := newGroup(t)
	g.room = func(name string) (uint64, uint64, error) {
		if name == *full.Load() {
			return 20 << 20, 1 << 30, nil
		}
		return 1 << 30, 1 << 30, nil
	}
	var join []string
	for i := range 3 {
		name := fmt.Sprint("c", i+1)
		g.start(name, 3, join...)
		join = append(join, g.members[name].addr)
	}
	g.ready()
	name, follower := g.follower()
	_, leader := g.leader()
	full.Store(&name)
	i := 0
	g.until("it gets no more", func() bool {
		i++
		g.put(leader, fmt.Sprint("s", i))
		return i > 10 && !has(follower, fmt.Sprint("s", i-10))
	})
	if _, err := follower.node.Propose(t.Context(), script("there")); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "is full") {
		t.Errorf("who asks there is told %v", err)
	}
	full.Store(new(string))
	g.same()
	if !has(follower, fmt.Sprint("s", i)) {
		t.Error("it has not got the rest")
	}
}

// A leader without room gives the lead to another: one full disk of three stops
// nothing.
func TestALeaderWhoseDiskIsFull(t *testing.T) {
	t.Parallel()
	var full atomic.Value
	full.Store("")
	g := newGroup(t)
	g.room = func(name string) (uint64, uint64, error) {
		if name == full.Load() {
			return 50 << 20, 1 << 30, nil
		}
		return 1 << 30, 1 << 30, nil
	}
	var join []string
	for i := range 3 {
		name := fmt.Sprint("c", i+1)
		g.start(name, 3, join...)
		join = append(join, g.members[name].addr)
	}
	g.ready()
	name, leader := g.leader()
	full.Store(name)
	g.until("another leads", func() bool { return leader.node.Status().State != raftnode.Leader })
	g.put(leader, "by another")
}

// One that began alone is joined by others later.
func TestOneAloneBecomesAGroup(t *testing.T) {
	g := newGroup(t)
	dir := t.TempDir()
	alone, err := raftnode.Open(raftnode.Config{Dir: dir, Name: "c1", Machine: state.New(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err = alone.Close(); err != nil {
		t.Fatal(err)
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "wal", "*")); len(found) == 0 {
		t.Fatal("it wrote nothing")
	}
	g.members["c1"] = &member{dir: dir, addr: "127.0.0.1:0"}
	first := g.start("c1", 0)
	g.ready()
	g.put(first, "alone")
	g.until("it says where it is", func() bool { return first.node.Status().Members[0].Addr == first.addr })
	for _, name := range []string{"c2", "c3"} {
		m := g.start(name, 0, first.addr)
		select {
		case <-m.node.Ready():
		case <-time.After(20 * time.Second):
			t.Fatalf("%s does not join: %+v", name, m.node.Status())
		}
	}
	g.same()
	g.put(g.members["c3"], "together")
	if !has(g.members["c2"], "alone") {
		t.Error("what was decided alone is lost")
	}
}

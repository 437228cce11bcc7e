package raftnode_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/coordinator/raftnode"
	"github.com/chiba-mesh/chiba/pkg/fault"
)

// segments are the files of a log, oldest first.
func segments(dir string) []string {
	all, _ := filepath.Glob(filepath.Join(dir, "wal", "*.wal"))
	return all
}

// flip changes one bit of the first text that is found in one of the files.
func flip(text string, files ...string) error {
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		at := bytes.Index(data, []byte(text))
		if at < 0 {
			continue
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt([]byte{data[at] ^ 1}, int64(at))
		return errors.Join(err, f.Close())
	}
	return fmt.Errorf("%q is in none of %v", text, files)
}

// large is a script that fills a third of a segment.
func (n *node) large(t *testing.T, name string) {
	t.Helper()
	c := script(name)
	c.GetPutScript().GetScript().File = strings.Repeat("x", 6<<20)
	if o, err := n.Propose(t.Context(), c); err != nil || o.Err != nil {
		t.Fatal(err, o.Err)
	}
}

// Whatever is damaged in the directory is found before anything relies on it, and is
// told with what to do: Raft would end the process where nothing can catch it, or go on
// without what is lost.
func TestADamagedLogIsAnErrorThatSaysWhatToDo(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(dir string) error
		want   string
	}{
		"index cut short": {func(dir string) error { return os.Truncate(filepath.Join(dir, "wal", "wal-meta.db"), 9000) }, "wal-meta.db"},
		"no segments":     {func(dir string) error { return os.Remove(segments(dir)[0]) }, "its beginning is lost"},
		"a bit of a full segment": {
			func(dir string) error { return flip("second", segments(dir)...) }, "of the log are damaged: their sum is",
		},
		"a full segment cut short": {
			func(dir string) error { return os.Truncate(segments(dir)[0], 4<<20) }, "damaged",
		},
		"a bit of the snapshot": {func(dir string) error {
			states, _ := filepath.Glob(filepath.Join(dir, "snapshots", "*", "state.bin"))
			return flip("first", states...)
		}, "is damaged: CRC mismatch"},
		"no snapshot": {func(dir string) error { return os.RemoveAll(filepath.Join(dir, "snapshots")) }, "" /* the log has all of it */},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			n, err := raftnodeWith(dir, 4)
			if err != nil {
				t.Fatal(err)
			}
			<-n.Ready()
			n.put(t, "first")
			if strings.Contains(name, "snapshot") {
				if err = n.Snapshot(); err != nil {
					t.Fatal(err)
				}
			}
			for i := 0; ; i++ { // until they were checked
				n.put(t, fmt.Sprint("second", i))
				if list, _ := n.Hashes(); len(list) > 1 {
					break
				}
			}
			if strings.Contains(name, "full segment") {
				for i := range 4 {
					n.large(t, fmt.Sprint("large", i))
				}
			}
			n.close(t)
			if err = c.damage(dir); err != nil {
				t.Fatal(err)
			}
			again, err := start(dir, slog.New(slog.DiscardHandler))
			if err == nil {
				again.close(t)
			}
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !fault.Is(err, fault.Garbage) || fault.HintOf(err) == "" || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, hint %q; want %q", err, fault.HintOf(err), c.want)
			}
		})
	}
}

// One of three has lost what it had said was on its disk: it does not start, for the
// group would count on it where it knows nothing. It says what to do; the others go on.
func TestAVoterThatHasForgottenIsNotStarted(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(dir string) error{
		"the whole log":    func(dir string) error { return os.Remove(segments(dir)[0]) },
		"a bit of its end": func(dir string) error { return flip("second", segments(dir)...) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := founded(t)
			lost, m := g.follower()
			g.put(m, "first")
			g.put(m, "second")
			m.kill()
			if err := damage(m.dir); err != nil {
				t.Fatal(err)
			}
			_, err := g.open(lost, 3)
			if !fault.Is(err, fault.Garbage) || !strings.Contains(err.Error(), "of the log are lost") || !strings.Contains(fault.HintOf(err), "chiba coordinator remove "+lost) {
				t.Errorf("it says %v, hint %q", err, fault.HintOf(err))
			}
			_, other := g.follower()
			g.put(other, "third")
		})
	}
}

// A bit that changes on the disk below a coordinator that runs is found at the next
// check, and is told with the place and the next step; it and the others go on.
func TestSilentDamageIsTold(t *testing.T) {
	t.Parallel()
	g := founded(t)
	name, m := g.follower()
	g.put(m, "quite-unique")
	if err := flip("quite-unique", segments(m.dir)...); err != nil {
		t.Fatal(err)
	}
	g.until("it is found", func() bool {
		g.put(m, "more")
		return m.node.Status().Damage != nil
	})
	told := m.node.Status().Damage.Error() + fault.HintOf(m.node.Status().Damage)
	for _, want := range []string{"of the log of coordinator " + name, "entries ", m.dir, "chiba coordinator remove " + name} {
		if !strings.Contains(told, want) {
			t.Errorf("it tells %q, without %q", told, want)
		}
	}
	for other, o := range g.members {
		if other != name && o.node.Status().Damage != nil {
			t.Errorf("%s is said to be damaged: %s", other, o.node.Status().Damage)
		}
	}
	g.same()
}

// A leader that had entries which nobody else got, and loses them to the next one, is
// not damaged.
func TestAReplacedEndIsNoDamage(t *testing.T) {
	t.Parallel()
	g := founded(t)
	for round := range 3 {
		_, leader := g.leader()
		_, other := g.follower()
		for i := range 30 {
			g.put(other, fmt.Sprint(round, "-", i))
		}
		leader.node.Yield()
		for i := range 30 {
			g.put(other, fmt.Sprint(round, "-more-", i))
		}
	}
	g.same()
	for name, m := range g.members {
		if d := m.node.Status().Damage; d != nil {
			t.Errorf("%s: %v", name, d)
		}
	}
}

func raftnodeWith(dir string, checkEvery uint64) (*node, error) {
	return startWith(raftnode.Config{Dir: dir, Name: "c1", CheckEvery: checkEvery, Log: slog.New(slog.DiscardHandler)})
}

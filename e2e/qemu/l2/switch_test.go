package l2

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// cord is a wire in memory: what a host sends is read, what the switch writes
// is kept with its time.
type cord struct {
	in   chan []byte
	done chan struct{}
	once sync.Once

	mu    sync.Mutex
	heard []string
	at    []time.Time
	full  error // what Write answers
}

func newCord() *cord { return &cord{in: make(chan []byte), done: make(chan struct{})} }

func (c *cord) Read(p []byte) (int, error) {
	select {
	case frame, open := <-c.in:
		if !open {
			return 0, io.ErrUnexpectedEOF
		}
		return copy(p, frame), nil
	case <-c.done:
		return 0, io.EOF
	}
}

func (c *cord) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.full != nil {
		return 0, c.full
	}
	c.heard, c.at = append(c.heard, string(p[header:])), append(c.at, time.Now())
	return len(p), nil
}

func (c *cord) Close() error {
	c.once.Do(func() { close(c.done) })
	return nil
}

func (c *cord) said() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string{}, c.heard...)
}

// lab is a switch with three hosts: their addresses end in 1, 2 and 3.
type lab struct {
	*Switch
	cords []*cord
	end   func() error
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{Switch: New(rand.New(rand.NewPCG(1, 2)))}
	for _, name := range []string{"one", "two", "three"} {
		c := newCord()
		l.cords = append(l.cords, c)
		l.Plug(name, c)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	l.end = sync.OnceValue(func() error { stop(); return <-ended })
	t.Cleanup(func() { _ = l.end() })
	return l
}

// all is the address of everybody.
const all = 0xff

func frame(to, from byte, text string) []byte {
	f := make([]byte, header, header+len(text))
	f[0], f[5], f[6], f[11] = 2, to, 2, from
	if to == all {
		f[0] = 0xff
	}
	return append(f, text...)
}

func (l *lab) send(from, to byte, text string) {
	l.cords[from-1].in <- frame(to, from, text)
	synctest.Wait()
}

// heard is what each host has heard, in the order of the hosts.
func (l *lab) heard() [][]string {
	out := make([][]string, len(l.cords))
	for i, c := range l.cords {
		out[i] = c.said()
	}
	return out
}

func TestForward(t *testing.T) {
	type sent struct {
		from, to byte
		text     string
	}
	for _, c := range []struct {
		name  string
		sends []sent
		want  [][]string
	}{
		{"to all", []sent{{1, all, "hello"}}, [][]string{{}, {"hello"}, {"hello"}}},
		{"to an unknown one", []sent{{1, 2, "who"}}, [][]string{{}, {"who"}, {"who"}}},
		{"to a known one", []sent{{2, all, "here"}, {1, 2, "you"}}, [][]string{{"here"}, {"you"}, {"here"}}},
		{"to itself", []sent{{1, all, "me"}, {1, 1, "back"}}, [][]string{{}, {"me"}, {"me"}}},
		{"no frame", []sent{}, [][]string{{}, {}, {}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				for _, s := range c.sends {
					l.send(s.from, s.to, s.text)
				}
				if diff := cmp.Diff(c.want, l.heard()); diff != "" {
					t.Error(diff)
				}
				if err := l.end(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A host that moves, as an address does between two cards, is found at once.
func TestAHostMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.send(2, all, "")
		l.cords[2].in <- frame(all, 2, "")
		synctest.Wait()
		l.send(1, 2, "found")
		if got := l.heard()[2]; len(got) != 2 || got[1] != "found" {
			t.Errorf("at its new port it heard %q", got)
		}
	})
}

func TestWhatIsTooShortIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.cords[0].in <- []byte("short")
		synctest.Wait()
		if got, want := l.ports[0].Counts(), (Counts{In: 1, Dropped: 1}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

func TestCutAndHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.ports[1].Set(Cable{Cut: true})
		l.send(1, all, "while cut")
		l.send(2, all, "from the cut")
		l.ports[1].Set(Cable{})
		l.send(1, all, "healed")
		l.send(2, all, "me too")
		want := [][]string{{"me too"}, {"healed"}, {"while cut", "healed", "me too"}}
		if diff := cmp.Diff(want, l.heard()); diff != "" {
			t.Error(diff)
		}
		if got, want := l.ports[1].Counts(), (Counts{In: 2, Out: 1, Dropped: 2}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

func TestLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.ports[1].Set(Cable{Loss: 0.2})
		const frames = 1000
		for range frames {
			l.send(1, all, "")
		}
		if heard := len(l.cords[1].said()); heard < 750 || heard > 850 {
			t.Errorf("with a loss of 20%% %d of %d frames came", heard, frames)
		}
		if heard := len(l.cords[2].said()); heard != frames {
			t.Errorf("a good cable lost %d frames", frames-heard)
		}
	})
}

// A cable with a firewall lets through what it does not block, both ways.
func TestBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.ports[1].Set(Cable{Block: func(f []byte) bool { return string(f[header:]) == "bad" }})
		for _, text := range []string{"bad", "good"} {
			l.send(1, all, text)
			l.send(2, all, text)
		}
		if diff := cmp.Diff([][]string{{"good"}, {"good"}, {"bad", "good", "good"}}, l.heard()); diff != "" {
			t.Error(diff)
		}
	})
}

// Jitter adds to the delay, and no frame overtakes another.
func TestJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.ports[0].Set(Cable{Delay: 10 * time.Millisecond, Jitter: 20 * time.Millisecond})
		var want []string
		for i := range 50 {
			want = append(want, string(rune('0'+i)))
			l.send(1, 2, want[i])
		}
		begun := time.Now()
		<-time.After(time.Second)
		if diff := cmp.Diff(want, l.heard()[1]); diff != "" {
			t.Error(diff)
		}
		at := l.cords[1].at
		if first, last := at[0].Sub(begun), at[len(at)-1].Sub(begun); first < 10*time.Millisecond || last >= 30*time.Millisecond || first == last {
			t.Errorf("they came from %s to %s", first, last)
		}
	})
}

// Delays add up along the way, and no frame overtakes another.
func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.ports[0].Set(Cable{Delay: 100 * time.Millisecond})
		l.ports[1].Set(Cable{Delay: 50 * time.Millisecond})
		began := time.Now()
		l.send(1, all, "slow")
		l.ports[0].Set(Cable{})
		l.send(1, all, "later")
		time.Sleep(time.Second) //nolint:forbidigo // the bubble's clock
		synctest.Wait()
		if diff := cmp.Diff([]string{"slow", "later"}, l.cords[1].said()); diff != "" {
			t.Fatal(diff)
		}
		for i, want := range []time.Duration{150 * time.Millisecond, 150 * time.Millisecond} {
			if took := l.cords[1].at[i].Sub(began); took != want {
				t.Errorf("frame %d came after %s, want %s", i, took, want)
			}
		}
		if took := l.cords[2].at[0].Sub(began); took != 100*time.Millisecond {
			t.Errorf("over one slow cable: %s", took)
		}
	})
}

// A port that takes nothing costs frames, not memory.
func TestAFullQueueDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.ports[1].Set(Cable{Delay: time.Hour})
		for range queue + 10 {
			l.send(1, all, "")
		}
		if got := l.ports[1].Counts().Dropped; got != 9 { // one is in the hand of the sender
			t.Errorf("%d were dropped, want 9", got)
		}
	})
}

func TestInventedAddressesAreNotRemembered(t *testing.T) {
	s := New(rand.New(rand.NewPCG(1, 2)))
	p := s.Plug("one", newCord())
	for i := range 3 * maxHosts {
		f := frame(all, 0, "")
		f[9], f[10] = byte(i>>8), byte(i)
		s.forward(p, f, time.Time{})
	}
	if len(s.hosts) != maxHosts {
		t.Errorf("it remembers %d hosts, want %d", len(s.hosts), maxHosts)
	}
}

// Nobody behind a wire yet is not an error; a wire that can't be read is.
func TestWiresFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.cords[1].full = errors.New("no such file")
		l.send(1, all, "lost")
		if got := l.ports[1].Counts(); got.Dropped != 1 || got.Out != 0 {
			t.Errorf("%+v", got)
		}
		close(l.cords[2].in)
		synctest.Wait()
		if err := l.end(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("Run ended with %v", err)
		}
		select {
		case <-l.cords[0].done:
		default:
			t.Error("the other wires are still open")
		}
	})
}

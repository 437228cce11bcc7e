package discover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chiba-mesh/chiba/discovery"
)

// says is a finder that tells a list and waits.
type says []discovery.Sighting

func (f says) Run(ctx context.Context, out chan<- discovery.Sighting) error {
	for _, s := range f {
		select {
		case out <- s:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	<-ctx.Done()
	return ctx.Err()
}

type broken struct{}

func (broken) Run(context.Context, chan<- discovery.Sighting) error { return errors.New("no socket") }

// look scans for two seconds; each address takes a second to answer with its own
// key, or for ever if its name says so.
func look(t *testing.T, finders map[string]Finder) (r Result, order []string, most int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
	defer cancel()
	var mu sync.Mutex
	under := 0
	s := Scan{Finders: finders, Now: time.Now, Ask: func(ctx context.Context, address string) (discovery.Answer, error) {
		mu.Lock()
		order = append(order, address)
		under++
		most = max(most, under)
		mu.Unlock()
		defer func() {
			mu.Lock()
			under--
			mu.Unlock()
		}()
		wait := time.Second
		if strings.HasPrefix(address, "hung") {
			wait = time.Hour
		}
		select {
		case <-time.After(wait):
			return discovery.Answer{Pin: "key of " + address}, nil
		case <-ctx.Done():
			return discovery.Answer{}, errors.New("no answer in time")
		}
	}}
	r = s.Run(ctx)
	return r, order, most
}

func TestScan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		r, _, _ := look(t, map[string]Finder{
			"broken": broken{},
			"mdns":   says{{Address: "a:443", Found: "mdns"}, {Address: "hung:443", Found: "mdns"}, {Found: "mdns", Note: "n"}},
			"ssdp":   says{{Address: "a:443", Found: "ssdp"}},
		})
		if took := time.Since(begun); took != 2500*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		c := r.Table.Candidates()
		if len(c) != 1 || !slices.Equal(c[0].Found, []string{"mdns", "ssdp"}) {
			t.Errorf("candidates: %+v", c)
		}
		if s := r.Table.Silent(); len(s) != 1 || s[0].Problem != "no answer in time" {
			t.Errorf("silent: %+v", s)
		}
		if len(r.Failed) != 1 || r.Failed["broken"] == nil || r.Finders != 3 || r.Unasked != 0 {
			t.Errorf("%+v", r)
		}
	})
}

// Few are asked at once, and who speaks for itself comes before what a stranger
// says of others, however early and much that is.
func TestTheHonestAreAskedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var flood says
		for i := range 900 {
			flood = append(flood, discovery.Sighting{Address: fmt.Sprintf("hung%d:443", i), Found: "mdns", Source: "rogue"})
		}
		flood = append(flood, discovery.Sighting{Address: "honest:443", Found: "mdns", Source: "honest"})
		r, order, most := look(t, map[string]Finder{"mdns": flood})
		if most != maxProbes {
			t.Errorf("%d asked at once", most)
		}
		if at := slices.Index(order, "honest:443"); at > maxProbes {
			t.Errorf("the honest one was asked as number %d", at)
		}
		if r.Unasked != 901-len(order) {
			t.Errorf("%d unasked, %d asked", r.Unasked, len(order))
		}
	})
}

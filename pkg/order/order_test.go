package order_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/order"
)

func run() order.Order {
	return order.Order{
		Kind: order.Run, Name: "s", Version: 7, Audience: []string{"r1"}, File: "s.scl", Digest: order.Digest(nil),
		NotAfter: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

func TestRoundTrip(t *testing.T) {
	for _, o := range []order.Order{
		run(),
		{Kind: order.Remove, Name: "s", Version: 1, Audience: []string{order.Fleet}},
		{Kind: order.Cancel, Name: "s", Version: 9, Audience: []string{"r1", "r2"}, Cancels: 7},
	} {
		data, err := o.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := order.Decode(data)
		if diff := cmp.Diff(o, got); diff != "" || err != nil {
			t.Errorf("%s: %v\n%s", o, err, diff)
		}
	}
}

func TestWhatMakesNoSense(t *testing.T) {
	for name, edit := range map[string]func(*order.Order){
		"no kind":           func(o *order.Order) { o.Kind = "" },
		"another kind":      func(o *order.Order) { o.Kind = "boot" },
		"no name":           func(o *order.Order) { o.Name = "" },
		"escape":            func(o *order.Order) { o.Name = "\x1b[2J" },
		"long file":         func(o *order.Order) { o.File = strings.Repeat("x", 2000) },
		"no version":        func(o *order.Order) { o.Version = 0 },
		"only on nothing":   func(o *order.Order) { o.Only = []string{""} },
		"only on an escape": func(o *order.Order) { o.Only = []string{"\x1b[2J"} },
		"a removal only on a node": func(o *order.Order) {
			*o = order.Order{Kind: order.Remove, Name: "s", Version: 1, Audience: o.Audience, Only: []string{"n1"}}
		},
		"nobody":          func(o *order.Order) { o.Audience = nil },
		"an empty rack":   func(o *order.Order) { o.Audience = []string{""} },
		"no deadline":     func(o *order.Order) { o.NotAfter = time.Time{} },
		"no digest":       func(o *order.Order) { o.Digest = "" },
		"cancels":         func(o *order.Order) { o.Cancels = 3 },
		"removes a bytes": func(o *order.Order) { o.Kind = order.Remove },
	} {
		o := run()
		edit(&o)
		if _, err := o.Encode(); err == nil {
			t.Errorf("%s: it was written", name)
		}
	}
}

// What a reader does not understand could be a limit that the author has set.
func TestStrict(t *testing.T) {
	data, err := run().Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		strings.Replace(string(data), `"kind"`, `"onlyIfIdle":true,"kind"`, 1), string(data) + "{}", string(data[1:]), "",
		strings.Repeat(" ", 1<<20) + string(data),
	} {
		if _, err := order.Decode([]byte(text)); err == nil {
			t.Errorf("%.60s was read", text)
		}
	}
}

func TestNextGrows(t *testing.T) {
	now := time.UnixMilli(1000)
	for _, c := range []struct{ last, want uint64 }{{0, 1000}, {999, 1000}, {1000, 1001}, {5000, 5001}} {
		if got := order.Next(now, c.last); got != c.want {
			t.Errorf("after %d comes %d, want %d", c.last, got, c.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	data, err := run().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := order.Decode(data)
		if err != nil {
			return
		}
		again, err := o.Encode()
		if err != nil {
			t.Fatalf("it was read and can't be written: %v", err)
		}
		if back, err := order.Decode(again); err != nil || back.String() != o.String() {
			t.Errorf("%s became %s, %v", o, back, err)
		}
	})
}

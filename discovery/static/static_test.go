package static_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/discovery/static"
	"github.com/chiba-mesh/chiba/pkg/fault"
)

func TestTellsAtOnceAndEveryMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		out, ended := make(chan discovery.Sighting), make(chan error, 1)
		go func() { ended <- static.Finder{Addresses: []string{"10.0.0.1:443", "10.0.0.2:443"}}.Run(ctx, out) }()
		begun := time.Now()
		var got []string
		for range 4 {
			s := <-out
			got = append(got, time.Since(begun).String()+" "+s.Address+" "+s.Found)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
		want := []string{"0s 10.0.0.1:443 static", "0s 10.0.0.2:443 static", "1m0s 10.0.0.1:443 static", "1m0s 10.0.0.2:443 static"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestRange(t *testing.T) {
	for text, want := range map[string][]string{
		"10.0.0.7":           {"10.0.0.7:443"},
		"fe80::7%eth1":       {"[fe80::7%eth1]:443"},
		"10.0.0.9/30":        {"10.0.0.9:443", "10.0.0.10:443"},
		"10.0.0.8/31":        {"10.0.0.8:443", "10.0.0.9:443"},
		"10.0.0.8/32":        {"10.0.0.8:443"},
		"fd00::fe/127":       {"[fd00::fe]:443", "[fd00::ff]:443"},
		"255.255.255.254/31": {"255.255.255.254:443", "255.255.255.255:443"},
	} {
		got, err := static.Range(text)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v %s", text, err, diff)
		}
	}
	if all, err := static.Range("10.0.0.0/20"); err != nil || len(all) != static.MaxRange-2 {
		t.Errorf("%d, %v", len(all), err)
	}
	for _, text := range []string{"", "10.0.0", "10.0.0.0/33", "bmc", "10.0.0.0/19", "fd00::/64", "0.0.0.0/0"} {
		if got, err := static.Range(text); err == nil || fault.HintOf(err) == "" {
			t.Errorf("%q: %d addresses, %v", text, len(got), err)
		}
	}
}

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

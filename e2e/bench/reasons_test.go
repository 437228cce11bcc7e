package bench

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/obs"
)

// Why links had no session is said once each, the most frequent first, and then anew.
func TestReasons(t *testing.T) {
	var r reasons
	log := slog.New(&r)
	for range 3 {
		log.Warn("no link to the coordinators", obs.Addr, "c1", obs.Err, errors.New("it timed out"))
	}
	log.Warn("no link to the coordinators", obs.Err, errors.New("refused"))
	log.Info("linked to a coordinator", obs.Err, errors.New("of no interest"))
	var said strings.Builder
	r.tell(&said)
	if want := "       3 × it timed out\n       1 × refused\n"; said.String() != want {
		t.Errorf("it says %q, want %q", said.String(), want)
	}
	said.Reset()
	if r.tell(&said); said.Len() > 0 {
		t.Errorf("it says again %q", said.String())
	}
}

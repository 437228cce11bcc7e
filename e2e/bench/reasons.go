package bench

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/chiba-mesh/chiba/pkg/obs"
)

// reasons is what links log of why they have no session, counted: of ten thousand
// agents each line would be there ten thousand times. It is a slog.Handler.
type reasons struct {
	mu    sync.Mutex
	count map[string]int
}

func (*reasons) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
func (r *reasons) WithAttrs([]slog.Attr) slog.Handler         { return r }
func (r *reasons) WithGroup(string) slog.Handler              { return r }

// Handle counts one.
func (r *reasons) Handle(_ context.Context, rec slog.Record) error {
	for a := range rec.Attrs {
		if a.Key == obs.Err {
			r.mu.Lock()
			if r.count == nil {
				r.count = map[string]int{}
			}
			r.count[a.Value.String()]++
			r.mu.Unlock()
		}
	}
	return nil
}

// tell says them, the most frequent first, and forgets them.
func (r *reasons) tell(to io.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	most := slices.SortedFunc(maps.Keys(r.count), func(a, b string) int {
		return cmp.Or(cmp.Compare(r.count[b], r.count[a]), strings.Compare(a, b))
	})
	for _, why := range most {
		fmt.Fprintf(to, "  %6d × %s\n", r.count[why], why)
	}
	clear(r.count)
}

package bmcsim

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
)

// FaultKind is a way in which BMCs fail in the field.
type FaultKind string

// The faults. They hold for every request except where said.
const (
	NoFault   FaultKind = "none"
	Hang      FaultKind = "hang"    // takes the request and never answers
	Slow      FaultKind = "slow"    // answers after Delay
	Garbage   FaultKind = "garbage" // 200, but the body is no JSON
	Broken    FaultKind = "500"     // InternalError
	Huge      FaultKind = "huge"    // 200 and 100 MiB of JSON that never ends
	Drop      FaultKind = "drop"    // closes the connection amid the answer
	Denies    FaultKind = "401"     // logins work, but no token or password is accepted after
	LostTasks FaultKind = "tasks"   // tasks are forgotten the moment they begin
	Busy      FaultKind = "503"     // ServiceTemporarilyUnavailable, Retry-After: Delay
	Deaf      FaultKind = "deaf"    // answers a PATCH with 204 and changes nothing
)

// FaultKinds are all faults, for help texts.
func FaultKinds() []FaultKind {
	return []FaultKind{NoFault, Hang, Slow, Garbage, Broken, Huge, Drop, Denies, LostTasks, Busy, Deaf}
}

// Fault is what is wrong with a BMC.
type Fault struct {
	Kind  FaultKind
	Delay time.Duration // of Slow (default 2 s) and Busy (default 10 s)
	For   time.Duration // 0: until it is changed
}

type faultBox struct {
	mu    sync.Mutex
	fault Fault
	until time.Time
}

// Fault makes the BMC fail as f says from the next request on.
func (b *BMC) Fault(f Fault) error {
	if !slices.Contains(FaultKinds(), f.Kind) {
		return fault.New(fault.BadInput, "set the fault", fmt.Sprintf("there is no fault %q", f.Kind)).
			WithHint("one of " + joinKinds(FaultKinds()))
	}
	if f.Delay < 0 || f.For < 0 {
		return fault.New(fault.BadInput, "set the fault", "a duration can't be negative")
	}
	b.faults.mu.Lock()
	defer b.faults.mu.Unlock()
	b.faults.fault, b.faults.until = f, time.Time{}
	if f.For > 0 {
		b.faults.until = b.cfg.Now().Add(f.For)
	}
	return nil
}

// CurrentFault is the fault the BMC has now.
func (b *BMC) CurrentFault() Fault {
	b.faults.mu.Lock()
	defer b.faults.mu.Unlock()
	f := b.faults.fault
	if f.Kind == "" || !b.faults.until.IsZero() && !b.cfg.Now().Before(b.faults.until) {
		return Fault{Kind: NoFault}
	}
	return f
}

func joinKinds(kinds []FaultKind) string {
	texts := make([]string, len(kinds))
	for i, k := range kinds {
		texts[i] = string(k)
	}
	return strings.Join(texts, ", ")
}

// misbehave answers r as the fault demands. It reports false if the request
// shall be answered in earnest.
func (b *BMC) misbehave(w http.ResponseWriter, r *http.Request) (status int, done bool) {
	f := b.CurrentFault()
	switch f.Kind {
	case Hang:
		<-r.Context().Done() // the client gave up, or the simulator ends
		panic(http.ErrAbortHandler)
	case Slow:
		wait(r.Context(), orDefault(f.Delay, 2*time.Second))
	case Garbage:
		w.Header().Set("Content-Type", jsonType)
		_, _ = w.Write([]byte("<html><body>Loading, please wait…</body>\x00{\"@odata.id\": "))
		return http.StatusOK, true
	case Broken:
		rep := internalError()
		return rep.write(w, r.Method), true
	case Huge:
		sendHuge(w, r)
		return http.StatusOK, true
	case Drop:
		w.Header().Set("Content-Type", jsonType)
		w.Header().Set("Content-Length", "4096")
		_, _ = w.Write([]byte("{\n  \"@odata.id\": \"/redfish/v1/Sys"))
		_ = http.NewResponseController(w).Flush()
		cut(r)
	case Busy:
		after := strconv.Itoa(int(orDefault(f.Delay, 10*time.Second).Seconds()))
		rep := failure(http.StatusServiceUnavailable, message.New("ServiceTemporarilyUnavailable", after))
		rep.set("Retry-After", after)
		return rep.write(w, r.Method), true
	case Deaf:
		if r.Method == http.MethodPatch {
			rep := noContent()
			return rep.write(w, r.Method), true
		}
	case NoFault, Denies, LostTasks:
	}
	return 0, false
}

// sendHuge streams 100 MiB of a JSON text that stays incomplete.
func sendHuge(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", jsonType)
	chunk := []byte(strings.Repeat(`"x": "0123456789abcdef",`+"\n", 1<<11))
	_, _ = w.Write([]byte("{\n"))
	for sent := 0; sent < 100<<20; sent += len(chunk) {
		if _, err := w.Write(chunk); err != nil || r.Context().Err() != nil {
			return
		}
	}
}

func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func orDefault(d, value time.Duration) time.Duration {
	if d == 0 {
		return value
	}
	return d
}

package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// ClockFile is where a process keeps the last signed time it has seen.
const ClockFile = "time"

// Clock is the time by which certificates are judged. It is the machine's, but never
// before the last signed time that was seen, which is kept on disk: a machine whose
// battery is dead starts in 1970, and one whose clock is set back must not bring an
// ended certificate to life. It is safe for concurrent use.
type Clock struct {
	path   string
	system func() time.Time

	mu     sync.Mutex
	floor  time.Time // the last signed time
	seenAt time.Time // by the system's clock, when it was seen
	kept   time.Time // what is on disk
}

// keepEvery bounds how often the disk is written.
const keepEvery = time.Minute

// OpenClock reads the last signed time from a file, if there is one. A nil system
// is time.Now.
func OpenClock(path string, system func() time.Time) (*Clock, error) {
	const op = "read the last signed time"
	if system == nil {
		system = time.Now
	}
	c := &Clock{path: path, system: system, seenAt: system()}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	if c.floor, err = time.Parse(time.RFC3339, strings.TrimSpace(string(text))); err != nil {
		return nil, fault.New(fault.Garbage, op, path+" holds no time").
			WithHint("compare this machine's clock with another's, and remove the file")
	}
	c.kept = c.floor
	return c, nil
}

// Now is the time by which to judge.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now(c.system())
}

// now lets the floor go on with the system's clock, however wrong that is.
func (c *Clock) now(system time.Time) time.Time {
	low := c.floor.Add(max(0, system.Sub(c.seenAt)))
	if c.floor.IsZero() || system.After(low) {
		return system
	}
	return low
}

// Behind is how far the system's clock is behind what is known to have been signed;
// 0 if it is not.
func (c *Clock) Behind() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	system := c.system()
	return c.now(system).Sub(system)
}

// Saw takes a time that somebody we believe has signed, or has told over a verified
// connection. One after limit, usually the end of our own certificate, is refused:
// a wrong clock elsewhere must not end ours for good.
func (c *Clock) Saw(signed, limit time.Time) error {
	const op = "take a signed time"
	if signed.After(limit) {
		return fault.New(fault.Untrusted, op, fmt.Sprintf("it is %s, and our own certificate ends at %s", stamp(signed), stamp(limit))).
			WithHint("compare the clocks of this machine and of the coordinators")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	system := c.system()
	if !signed.After(c.floor.Add(max(0, system.Sub(c.seenAt)))) && !c.floor.IsZero() {
		return nil
	}
	c.floor, c.seenAt = signed, system
	if signed.Sub(c.kept) < keepEvery {
		return nil
	}
	if err := WriteFile(c.path, 0o644, []byte(signed.UTC().Format(time.RFC3339)+"\n")); err != nil {
		return fault.Wrap(fault.Unavailable, op, err)
	}
	c.kept = signed
	return nil
}

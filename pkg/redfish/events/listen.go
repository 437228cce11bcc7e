package events

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// Service is a BMC as far as events need it. A redfish.Client is one; so is
// whoever paces it.
type Service interface {
	redfish.Getter
	Root(ctx context.Context) (*redfish.Root, error)
	Profile() redfish.Profile
	Stream(ctx context.Context, uri, lastID string) (io.ReadCloser, error)
	Post(ctx context.Context, uri string, body any) (*redfish.Reply, error)
	Delete(ctx context.Context, uri string) (*redfish.Reply, error)
}

// Config is how one BMC is listened to. Zero durations mean the default.
type Config struct {
	Service  Service
	Receiver *Receiver // nil: without subscriptions
	// Context marks our subscriptions on the BMC, so that those of an earlier
	// life are found and removed.
	Context string

	Poll    time.Duration  // between two notices while nothing is pushed, default 30 s
	Retry   time.Duration  // between two tries of a better way, at most; default 5 min
	Check   time.Duration  // how often a subscription is seen to be there, default 5 min
	Silence time.Duration  // after which a stream is taken for dead; default the profile's
	Jitter  func() float64 // in [0,1); nil: math/rand
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&c.Poll, 30*time.Second)
	set(&c.Retry, 5*time.Minute)
	set(&c.Check, 5*time.Minute)
	if c.Jitter == nil {
		c.Jitter = rand.Float64
	}
	return c
}

// Run listens until ctx ends, and returns its error. It calls deliver for every
// notice, one after the other; while deliver works events wait, within bounds.
func Run(ctx context.Context, cfg Config, deliver func(Notice)) error {
	l := &listener{Config: cfg.withDefaults(), deliver: deliver}
	for ctx.Err() == nil {
		err := l.listen(ctx)
		if ctx.Err() == nil {
			l.rest(ctx, err)
		}
	}
	return ctx.Err()
}

// listener is one Run.
type listener struct {
	Config
	deliver func(Notice)

	lastID string        // of the stream
	wish   time.Duration // of the BMC, until the next stream
	failed int           // tries in a row that heard nothing
	swept  bool          // subscriptions of ours that we know nothing of any more are gone
}

// eventService is what is read of the EventService (DSP2046).
type eventService struct {
	Stream        redfish.Text `json:"ServerSentEventUri"`
	Subscriptions redfish.Link
	Enabled       *bool `json:"ServiceEnabled"`
}

// listen hears the BMC by the best way that works until that ends.
func (l *listener) listen(ctx context.Context) error {
	root, err := l.Service.Root(ctx)
	if err != nil {
		return err
	}
	if root.EventService == "" {
		return fault.New(fault.Unsupported, "listen for events", "this BMC has no event service")
	}
	var s eventService
	if err = redfish.Get(ctx, l.Service, root.EventService, &s); err != nil {
		return err
	}
	if s.Enabled != nil && !*s.Enabled {
		return fault.New(fault.Unsupported, "listen for events", "the BMC's event service is switched off")
	}
	err = fault.New(fault.Unsupported, "listen for events", "this BMC offers neither a stream nor, to us, a subscription")
	if s.Stream != "" {
		if err = l.stream(ctx, string(s.Stream)); err == nil {
			return nil
		}
	}
	if l.Receiver != nil && s.Subscriptions != "" && ctx.Err() == nil {
		err = l.subscription(ctx, s.Subscriptions)
	}
	return err
}

// rest waits for the next try: shortly after something was heard, ever longer
// while nothing is. If it takes long, the caller is told to read meanwhile.
func (l *listener) rest(ctx context.Context, err error) {
	base := max(l.Service.Profile().Reconnect, l.wish)
	if err == nil {
		l.failed = 0
	} else {
		base = min(base<<min(l.failed, 10), max(l.Retry, base))
		l.failed++
	}
	left := base + time.Duration(l.Jitter()*float64(base)/2)
	for ctx.Err() == nil && left > 0 {
		if err != nil {
			l.deliver(Notice{Way: ByPolling, Gap: true, Why: err.Error()})
		}
		step := min(left, l.Poll)
		left -= step
		wait(ctx, step)
	}
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// stream hears the event stream until it ends. An error means that it could not
// be opened.
func (l *listener) stream(ctx context.Context, uri string) error {
	resuming := l.lastID
	body, err := l.Service.Stream(ctx, path(uri), resuming)
	if err != nil {
		return err
	}
	defer body.Close()
	l.wish = 0
	// Also when it resumes: a BMC that has restarted counts its events anew, and
	// knows nothing of those before, or of others under the same ids.
	l.deliver(Notice{Way: ByStream, Gap: true, Why: opened(resuming)})
	silence := l.Silence
	if silence <= 0 {
		silence = l.Service.Profile().Silence
	}
	// No heartbeat is promised: only long silence tells that a stream is dead.
	dead := time.AfterFunc(silence, func() { _ = body.Close() })
	defer dead.Stop()
	in := newFrames(body, func() { dead.Reset(silence) })
	for {
		f, err := in.next()
		if err != nil {
			if fault.Is(err, fault.TooLarge) {
				l.lastID = "" // that one is skipped: what it told has to be read
			}
			return nil
		}
		l.heard(f)
	}
}

func opened(resuming string) string {
	if resuming == "" {
		return "nothing is known of what was before"
	}
	return "the stream was interrupted"
}

// heard passes one frame on.
func (l *listener) heard(f frame) {
	if f.retry > 0 {
		l.wish = f.retry
	}
	events, lost, err := decode(f.data)
	n := Notice{Way: ByStream, Events: events, Gap: lost || err != nil}
	switch {
	case err != nil:
		n.Why = "an event could not be read"
	case lost:
		n.Why = "the BMC no longer has all events since the last one that was heard"
	}
	if len(n.Events) > 0 || n.Gap {
		l.deliver(n)
	}
	if f.id != "" {
		l.lastID = f.id
	}
	if lost {
		l.lastID = ""
	}
}

// path is the path of a URI that some BMCs write whole.
func path(uri string) string {
	if _, rest, whole := strings.Cut(uri, "://"); whole {
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			return rest[i:]
		}
	}
	return uri
}

// subscription hears the receiver until the subscription is found to be gone.
// An error means that there was none.
func (l *listener) subscription(ctx context.Context, collection redfish.Link) error {
	if err := l.sweep(ctx, collection); err != nil {
		return err
	}
	destination, box, closed := l.Receiver.open()
	defer closed()
	// Only what every BMC knows: an unknown member is refused (400 on bmcweb).
	reply, err := l.Service.Post(ctx, string(collection), map[string]any{"Destination": destination, "Protocol": "Redfish", "Context": l.Context})
	if err != nil {
		l.swept = !redfish.Uncertain(err) // it may stand all the same
		return hidden(err)
	}
	uri := reply.Location()
	defer func() { l.swept = l.unsubscribe(ctx, uri) }()
	l.deliver(Notice{Way: BySubscription, Gap: true, Why: "nothing is known of what was before"})
	check := time.NewTicker(l.Check)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-box.bell:
			if events, lost := box.take(); len(events) > 0 || lost {
				l.deliver(Notice{Way: BySubscription, Events: events, Gap: lost, Why: why(lost)})
			}
		case <-check.C:
			// Some BMCs delete a subscription after a few failed deliveries.
			if _, err := l.Service.Fetch(ctx, uri); fault.Is(err, fault.NotFound) {
				return nil
			}
		}
	}
}

func why(lost bool) string {
	if lost {
		return "more events came than could be kept"
	}
	return ""
}

// hidden takes the address out of an error: it ends in a secret, and BMCs
// repeat what they refuse.
func hidden(err error) error {
	return fault.New(fault.KindOf(err), "subscribe to events", "the BMC refuses the subscription").WithHint(fault.HintOf(err))
}

// unsubscribe removes our subscription, also when ctx has ended, and reports whether
// none is left. What stays is swept before the next one is made, or by the next life.
func (l *listener) unsubscribe(ctx context.Context, uri string) (none bool) {
	if uri == "" {
		return false // the BMC did not say what it is called
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_, err := l.Service.Delete(ctx, uri)
	return err == nil || fault.Is(err, fault.NotFound)
}

// maxSwept bounds the subscriptions that are looked at; BMCs hold about twenty.
const maxSwept = 64

// sweep removes what earlier lives, and subscriptions of this one, have left.
func (l *listener) sweep(ctx context.Context, collection redfish.Link) error {
	if l.swept {
		return nil
	}
	if err := sweep(ctx, l.Service, collection, func(mark string) bool { return mark == l.Context }); err != nil {
		return err
	}
	l.swept = true
	return nil
}

// Sweep removes the subscriptions that an earlier life left on a BMC: those whose
// context is ours, wherever they deliver to, and nobody else's. They outlive restarts
// of the BMC. It is for who does not listen; Run does it by itself for its own context.
func Sweep(ctx context.Context, s Service, ours func(mark string) bool) error {
	root, err := s.Root(ctx)
	if err != nil || root.EventService == "" {
		return err
	}
	var service eventService
	if err = redfish.Get(ctx, s, root.EventService, &service); err != nil || service.Subscriptions == "" {
		return err
	}
	return sweep(ctx, s, service.Subscriptions, ours)
}

func sweep(ctx context.Context, s Service, collection redfish.Link, ours func(mark string) bool) error {
	all, err := redfish.Members(ctx, s, collection, maxSwept)
	if err != nil {
		return fmt.Errorf("list the subscriptions: %w", err)
	}
	var failed error
	for _, uri := range all {
		var found struct{ Context redfish.Text }
		err := redfish.Get(ctx, s, uri, &found)
		if mark := string(found.Context); err == nil && mark != "" && ours(mark) { // one without a context is somebody's
			_, err = s.Delete(ctx, string(uri))
		}
		if err != nil && !fault.Is(err, fault.NotFound) {
			failed = fmt.Errorf("remove a subscription of an earlier life: %w", err)
		}
	}
	return failed
}

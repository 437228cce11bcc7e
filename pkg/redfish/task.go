package redfish

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// Asker reads one resource with its status and headers. A Client is one; so is
// whoever paces it.
type Asker interface {
	Ask(ctx context.Context, uri string) (*Reply, error)
}

// Ask reads the resource at uri as it is: any body, also none.
func (c *Client) Ask(ctx context.Context, uri string) (*Reply, error) {
	return c.call(ctx, request{method: http.MethodGet, uri: uri, noRetry: true})
}

// Task is an operation that a BMC has begun and not ended. Either URI may be
// "": a BMC names one or both.
type Task struct {
	Monitor string // 202 while it runs; then its outcome, on OpenBMC exactly once
	URI     string // the Task resource, which vanishes when the BMC restarts
	Wait    time.Duration
}

// taskResource is what is read of a Task (DSP2046).
type taskResource struct {
	ODataID  Text   `json:"@odata.id"`
	Type     Text   `json:"@odata.type"`
	Monitor  Text   `json:"TaskMonitor"`
	State    Text   `json:"TaskState"`
	Status   Text   `json:"TaskStatus"`
	Percent  Number `json:"PercentComplete"`
	Messages []struct {
		ID   Text `json:"MessageId"`
		Text Text `json:"Message"`
	} `json:"Messages"`
}

// isTask reports whether a body is a Task at all.
func (r taskResource) isTask() bool {
	return strings.HasPrefix(string(r.Type), "#Task.") || r.State != ""
}

// TaskOf is the task that an answer began; false if it was done at once.
func (r *Reply) TaskOf() (Task, bool) {
	var doc taskResource
	_ = Decode(r.Body, &doc) // a body is not needed
	location := r.Location()
	if r.Status != http.StatusAccepted && (!doc.isTask() || location == "" && doc.Monitor == "") {
		return Task{}, false
	}
	t := Task{Monitor: pathOf(string(doc.Monitor)), Wait: retryAfter(r.Header, time.Now())}
	if doc.isTask() {
		t.URI = pathOf(string(doc.ODataID))
	}
	switch {
	case location == "" || location == t.URI:
	case strings.Contains(location, "/Tasks/") && t.URI == "" && !strings.HasSuffix(location, "/Monitor"):
		t.URI = location // iDRACs and others name the Task itself, or a job
	default:
		t.Monitor = location
	}
	return t, t.Monitor+t.URI != ""
}

// TaskEnd is how a task ended, as far as that can be said.
type TaskEnd int

// The ends of a task.
const (
	TaskUnknown TaskEnd = iota // nobody can tell: read back what it was to change
	TaskDone
	TaskFailed
)

// String is the word for people: done, failed, unknown.
func (e TaskEnd) String() string { return [...]string{"unknown", "done", "failed"}[e] }

// TaskReport is a true statement about a task: how it ended, and what was seen
// of it last. That a task is done is the BMC's word; success is what is read
// back.
type TaskReport struct {
	End      TaskEnd
	State    string // TaskState as last seen, "" if it never was
	Percent  int    // as last seen, -1 if it never was
	Messages []Message
	Why      string // of a failed or unknown end
	Lost     bool   // the end is unknown because the BMC no longer knows the task
	Polls    int
}

// Err is nil for a task that is done, else the report as a fault, Uncertain if
// the end is unknown.
func (r TaskReport) Err() error {
	if r.End == TaskDone {
		return nil
	}
	kind, hint := fault.Conflict, "read the BMC's event log for its own account"
	if r.End == TaskUnknown {
		kind, hint = fault.Timeout, "look at what the task was to change before it is begun again"
	}
	err := fault.New(kind, "wait for the task", r.String()).WithHint(hint)
	if r.End == TaskUnknown {
		return uncertain{err}
	}
	return err
}

// String is one line for people.
func (r TaskReport) String() string {
	var b strings.Builder
	b.WriteString("the task is " + r.End.String())
	if r.Why != "" {
		b.WriteString(": " + r.Why)
	}
	if r.State != "" {
		fmt.Fprintf(&b, "; last seen %s", r.State)
		if r.Percent >= 0 {
			fmt.Fprintf(&b, " at %d %%", r.Percent)
		}
	}
	for _, m := range r.Messages {
		b.WriteString("; " + m.Text)
	}
	return b.String()
}

// Watch is how a task is waited for.
type Watch struct {
	Deadline time.Duration    // default 30 min
	Most     time.Duration    // between two looks, whatever the BMC asks for; default 1 min, at least 1 s
	Progress func(TaskReport) // hears of each change; may be nil
	Jitter   func() float64   // in [0,1); nil: math/rand
	Now      func() time.Time // nil: time.Now
}

// The time between two looks at a task. A BMC whose clock stands at 1970 asks
// for less than no time; one that asks for an hour is looked at all the same.
const (
	minLook    = time.Second
	maxLook    = time.Minute
	lostAfter  = 3 // times in a row that the task is not found before it counts
	maxRefused = 5 // times in a row that the BMC refuses to tell
)

// WaitTask looks at a task until it has ended, the deadline is over or ctx
// ends. It survives answers that fail, and the restart of the BMC: a task that
// is gone afterwards is unknown, with what was last seen of it. It never spins:
// at least a second lies between two looks.
func WaitTask(ctx context.Context, a Asker, t Task, w Watch) TaskReport {
	if w.Deadline <= 0 {
		w.Deadline = 30 * time.Minute
	}
	if w.Most <= 0 {
		w.Most = maxLook
	}
	w.Most = max(w.Most, minLook)
	if w.Jitter == nil {
		w.Jitter = rand.Float64
	}
	if w.Now == nil {
		w.Now = time.Now
	}
	ctx, cancel := context.WithTimeout(ctx, w.Deadline)
	defer cancel()
	k := &waiter{asker: a, task: t, watch: w, wait: t.Wait, report: TaskReport{Percent: -1}}
	for !k.over {
		if !pause(ctx, k.until(ctx)) {
			return k.ended(TaskUnknown, k.unheard(ctx))
		}
		k.look(ctx)
	}
	return k.report
}

// until is the time until the next look. One that would fall behind the
// deadline is brought forward, once: what is known at the end is to be fresh.
func (k *waiter) until(ctx context.Context) time.Duration {
	d := k.interval()
	deadline, _ := ctx.Deadline()
	if left := time.Until(deadline); d >= left && !k.lastLook {
		k.lastLook = true
		return max(left-2*minLook, minLook)
	}
	return d
}

// waiter is one wait for a task.
type waiter struct {
	asker   Asker
	task    Task
	watch   Watch
	report  TaskReport
	wait    time.Duration // until the next look
	last    error         // why the last look failed, nil if it did not
	missing int           // looks in a row that found nothing
	refused int           // looks in a row that the BMC refused
	over    bool
	lost    bool // the Task itself is no longer found
	// lastLook is taken shortly before the deadline.
	lastLook bool
}

// interval is the time until the next look, up to a quarter longer than asked
// for, so that the tasks of a rack are not looked at in step.
func (k *waiter) interval() time.Duration {
	d := min(max(k.wait, minLook), k.watch.Most)
	return min(d+time.Duration(k.watch.Jitter()*float64(d)/4), k.watch.Most)
}

func (k *waiter) ended(end TaskEnd, why string) TaskReport {
	k.over, k.report.End, k.report.Why = true, end, why
	return k.report
}

// unheard is why nothing more is known when the time is over.
func (k *waiter) unheard(ctx context.Context) string {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return "the wait was stopped"
	case k.last != nil:
		return fmt.Sprintf("it was not seen to end within %s, and the last look failed: %s", k.watch.Deadline, k.last)
	default:
		return fmt.Sprintf("it has not ended within %s", k.watch.Deadline)
	}
}

// look reads the Task, which tells more, or else the monitor.
func (k *waiter) look(ctx context.Context) {
	k.report.Polls++
	uri := k.task.URI
	if uri == "" {
		uri = k.task.Monitor
	}
	reply, err := k.asker.Ask(ctx, uri)
	if err != nil {
		k.failedLook(uri, err)
		return
	}
	k.last, k.missing, k.refused = nil, 0, 0
	k.wait = retryAfter(reply.Header, k.watch.Now())
	if reply.Header.Get("Retry-After") == "" {
		k.wait = min(max(2*k.wait, 2*minLook), 10*time.Second)
	}
	var doc taskResource
	isTask := Decode(reply.Body, &doc) == nil && doc.isTask()
	if isTask {
		k.saw(doc)
	}
	switch {
	case isTask:
		k.judge(doc)
	case uri == k.task.URI: // no Task stands there: the monitor may tell more
		k.leaveTask("the BMC shows no task there")
	case reply.Status != http.StatusAccepted:
		k.ended(TaskDone, "")
	}
}

// saw keeps what a Task tells and passes it on if it is new.
func (k *waiter) saw(doc taskResource) {
	before := k.report
	k.report.State = short(string(doc.State))
	if doc.Percent.Set && doc.Percent.Value >= 0 && doc.Percent.Value <= 100 {
		k.report.Percent = int(doc.Percent.Value)
	}
	k.report.Messages = nil
	for _, m := range doc.Messages[max(len(doc.Messages)-4, 0):] {
		k.report.Messages = append(k.report.Messages, Message{ID: lastPart(string(m.ID)), Text: short(string(m.Text))})
	}
	if k.task.URI == "" {
		k.task.URI = pathOf(string(doc.ODataID))
	}
	if changed := before.State != k.report.State || before.Percent != k.report.Percent; changed && k.watch.Progress != nil {
		k.watch.Progress(k.report)
	}
}

// judge ends the wait if the Task has. States are those of DSP2046; an
// interrupted or suspended task is expected to go on.
func (k *waiter) judge(doc taskResource) {
	switch doc.State {
	case "Completed":
		if doc.Status == "Critical" {
			k.ended(TaskFailed, "the BMC completed it with a critical status")
			return
		}
		k.ended(TaskDone, "")
	case "Exception", "Killed", "Cancelled":
		k.ended(TaskFailed, "the BMC ended it with "+string(doc.State))
	}
}

// failedLook judges a look that gave no answer, or a refusal.
func (k *waiter) failedLook(uri string, err error) {
	k.last = err
	k.wait = min(max(2*k.wait, 2*minLook), maxLook)
	var refusal *StatusError
	if !errors.As(err, &refusal) {
		return // the BMC restarts, or the way to it is cut: only time tells
	}
	switch {
	case refusal.RetryAfter > 0: // busy
		k.wait = refusal.RetryAfter
	case refusal.Status == http.StatusNotFound || refusal.Status == http.StatusGone:
		if k.missing++; k.missing >= lostAfter {
			k.gone(uri)
		}
	case uri == k.task.Monitor && (fault.Is(err, fault.BadInput) || fault.Is(err, fault.Conflict)):
		// The monitor answers with the outcome of the operation itself (DSP0266).
		k.report.Messages = refusal.Messages
		k.ended(TaskFailed, refusal.Error())
	default:
		if k.refused++; k.refused >= maxRefused {
			k.ended(TaskUnknown, "the BMC does not tell: "+refusal.Error())
		}
	}
}

const forgotten = "the BMC no longer knows the task: it restarted, or has forgotten it"

// gone ends the wait for a task that the BMC no longer knows, unless there is
// another place to look.
func (k *waiter) gone(uri string) {
	if uri == k.task.URI {
		k.lost = true
		k.leaveTask(forgotten)
		return
	}
	if k.lost {
		k.report.Lost = true
		k.ended(TaskUnknown, forgotten)
		return
	}
	k.ended(TaskUnknown, "its monitor is gone, and the answer that told the outcome did not arrive")
}

// leaveTask looks at the monitor from now on, if there is one.
func (k *waiter) leaveTask(why string) {
	if k.task.Monitor == "" || k.task.Monitor == k.task.URI {
		k.report.Lost = k.lost
		k.ended(TaskUnknown, why)
		return
	}
	k.task.URI, k.missing = "", 0
}

// Package tasks is work that goes on after its answer. What a task has come to is a
// function of the time, which is told; like on OpenBMC tasks live in memory and
// do not survive a restart.
package tasks

import (
	"slices"
	"strconv"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/clock"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
)

const maxTasks = 100 // older ones are forgotten

// The final states of a task.
const (
	Completed = "Completed"
	Exception = "Exception"
)

// Unchanged is the Percent of a step that leaves it as it was.
const Unchanged = -1

// Task is one piece of work. Its request and its plan are the caller's to fill in,
// the rest is the list's.
type Task struct {
	ID      string
	URI     string   // that was asked
	Headers []string // of the request, "Name: value"
	Said    string   // the body of the request, if it was JSON
	Start   time.Time
	Plan    []Step // in the order of After; the last one has a State

	told   int  // steps that were noticed
	closed bool // the monitor has said that it is over
}

// Step is something that happens to a task. Without a message it has the usual
// one: of the end if it is one, else of progress.
type Step struct {
	After   time.Duration // since the start
	Percent int           // or Unchanged
	Message map[string]any
	State   string        // "" while it runs, else the final state
	Effect  func(t *Task) // what it changes, nil for nothing
}

// Progress is the plan of work that goes well: in eight parts, at whose end it
// has an effect and is completed.
func Progress(took time.Duration, effect func(*Task)) []Step {
	plan := make([]Step, 0, 10)
	for i, percent := range []int{10, 25, 40, 55, 70, 85, 100} {
		plan = append(plan, Step{After: took * time.Duration(i+1) / 8, Percent: percent})
	}
	return append(plan, Step{After: took, Percent: 100, Effect: effect}, Step{After: took, Percent: Unchanged, State: Completed})
}

// Failure is the plan of work that comes to a bad end soon.
func Failure(took time.Duration) []Step {
	return []Step{{After: took / 8, Percent: Unchanged, State: Exception}}
}

// List are the tasks of a BMC. Its owner guards it.
type List struct {
	tasks []*Task
	next  int // the id of the next one
}

// Begin takes a task in. Its ID is new, also after others were forgotten.
func (l *List) Begin(t *Task) {
	t.ID = strconv.Itoa(l.next)
	t.Plan = slices.Insert(slices.Clone(t.Plan), 0, Step{Message: message.Task("TaskStarted", t.ID)})
	for i := range t.Plan {
		if t.Plan[i].Message == nil {
			t.Plan[i].Message = t.usual(t.Plan[i])
		}
	}
	if t.Headers == nil {
		t.Headers = []string{}
	}
	l.next++
	l.tasks = append(l.tasks, t)
	if len(l.tasks) > maxTasks {
		l.tasks = slices.Delete(l.tasks, 0, 1)
	}
}

func (t *Task) usual(s Step) map[string]any {
	if s.State == "" {
		return message.Task("TaskProgressChanged", t.ID, strconv.Itoa(s.Percent))
	}
	return t.end(s)
}

func (t *Task) end(s Step) map[string]any {
	if s.State == Completed {
		return message.Task("TaskCompletedOK", t.ID)
	}
	return message.Task("TaskAborted", t.ID)
}

// Settle lets happen what is due: effects, and what is told of the begin and the
// end of tasks. Progress is not told. It reports whether there were effects.
func (l *List) Settle(now time.Time, tell func(t *Task, message map[string]any)) (changed bool) {
	for _, t := range slices.Clone(l.tasks) { // an effect may forget them
		for _, s := range t.done(now)[min(t.told, len(t.done(now))):] {
			t.told++
			if s.Effect != nil {
				s.Effect(t)
				changed = true
			}
			switch {
			case t.told == 1:
				tell(t, s.Message)
			case s.State != "":
				tell(t, t.end(s))
			}
		}
	}
	return changed
}

// Find is the task with an id, nil if there is none.
func (l *List) Find(id string) *Task {
	for _, t := range l.tasks {
		if t.ID == id {
			return t
		}
	}
	return nil
}

// IDs are those of all tasks, oldest first.
func (l *List) IDs() []string {
	ids := make([]string, len(l.tasks))
	for i, t := range l.tasks {
		ids[i] = t.ID
	}
	return ids
}

// Forget loses every task, and what it would have done.
func (l *List) Forget() { l.tasks = nil }

// done are the steps that have happened; the first one always has.
func (t *Task) done(now time.Time) []Step {
	n := 1
	for n < len(t.Plan) && !now.Before(t.Start.Add(t.Plan[n].After)) {
		n++
	}
	return t.Plan[:n]
}

// final is the end of a task, if it has come.
func (t *Task) final(now time.Time) (Step, bool) {
	steps := t.done(now)
	last := steps[len(steps)-1]
	return last, last.State != ""
}

// Over reports whether the work is done.
func (t *Task) Over(now time.Time) bool {
	_, over := t.final(now)
	return over
}

// Closed reports whether the monitor has said that the task is over.
func (t *Task) Closed() bool { return t.closed }

// Close is the monitor's last word.
func (t *Task) Close() { t.closed = true }

// Body is the task as a member of the collection at uri, with the URI of its
// monitor as long as it has one.
func (t *Task) Body(uri, monitor string, now time.Time, offset clock.Offset) map[string]any {
	messages, percent := []map[string]any{}, 0
	for _, s := range t.done(now) {
		messages = append(messages, s.Message)
		if s.Percent != Unchanged {
			percent = s.Percent
		}
	}
	o := map[string]any{
		"@odata.id": uri + "/" + t.ID, "@odata.type": "#Task.v1_4_3.Task", "HidePayload": false, "Id": t.ID,
		"Messages": messages, "Name": "Task " + t.ID, "PercentComplete": percent,
		"Payload":   map[string]any{"HttpHeaders": t.Headers, "HttpOperation": "POST", "JsonBody": t.Said, "TargetUri": t.URI},
		"StartTime": offset.Stamp(t.Start, clock.Seconds), "TaskState": "Running", "TaskStatus": message.OK,
	}
	if end, over := t.final(now); over {
		o["EndTime"], o["TaskState"] = offset.Stamp(t.Start.Add(end.After), clock.Seconds), end.State
		if end.State != Completed {
			o["TaskStatus"] = message.Warning
		}
	}
	if !t.closed {
		o["TaskMonitor"] = monitor
	}
	return o
}

// Accepted is the task as its answer and its monitor show it: without an empty
// body of the request.
func (t *Task) Accepted(uri, monitor string, now time.Time, offset clock.Offset) map[string]any {
	o := t.Body(uri, monitor, now, offset)
	if payload, found := o["Payload"].(map[string]any); found && t.Said == "" {
		delete(payload, "JsonBody")
	}
	return o
}

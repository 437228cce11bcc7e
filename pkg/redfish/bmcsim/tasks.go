package bmcsim

import (
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/clock"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/events"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
)

const (
	taskServiceURI = "/redfish/v1/TaskService"
	tasksURI       = taskServiceURI + "/Tasks"
	monitorsURI    = taskServiceURI + "/TaskMonitors"
	maxTasks       = 100 // older ones are forgotten
)

// task is work that goes on after its answer. What it has come to is a
// function of the time; like on OpenBMC it lives in memory and does not
// survive a restart.
type task struct {
	id      string
	uri     string // that was asked
	headers []string
	body    string
	start   time.Time
	plan    []step

	told   int  // steps that were noticed
	closed bool // the monitor has said that it is over
}

// step is something that happens to a task.
type step struct {
	after   time.Duration
	percent int // -1: as it was
	message obj
	state   string        // "" while it runs, else the final state
	effect  func(t *task) // what it changes, nil for nothing
}

func taskRoutes() []route {
	return []route{
		{path: taskServiceURI, do: gets(getTaskService)},
		{path: tasksURI, do: gets(getTasks)},
		{path: tasksURI + "/{task}", do: gets(getTask)},
		{path: monitorsURI + "/{task}", do: gets(getMonitor)},
	}
}

// begin starts a task for a request and answers 202 with its monitor.
func (b *BMC) begin(q *request, headers []string, plan []step) reply {
	t := &task{id: strconv.Itoa(b.nextTask), uri: q.path, start: q.now, headers: headers, plan: plan}
	if q.header.Get("Content-Type") == jsonType {
		t.body = string(q.body)
	}
	t.plan = slices.Insert(t.plan, 0, step{percent: 0, message: message.Task("TaskStarted", t.id)})
	for i := range t.plan {
		if t.plan[i].message == nil {
			t.plan[i].message = message.Task("TaskProgressChanged", t.id, strconv.Itoa(t.plan[i].percent))
		}
	}
	b.nextTask++
	b.tasks = append(b.tasks, t)
	if len(b.tasks) > maxTasks {
		b.tasks = slices.Delete(b.tasks, 0, 1)
	}
	b.settleTasks(q.now)
	return t.accepted(b, q.now)
}

// accepted is the answer to a request whose work goes on, and of the monitor
// while it does.
func (t *task) accepted(b *BMC, now time.Time) reply {
	o := t.view(b, now)
	if payload, isObj := o["Payload"].(obj); isObj && t.body == "" {
		delete(payload, "JsonBody")
	}
	r := reply{status: http.StatusAccepted, body: o}
	r.set("Location", monitorsURI+"/"+t.id)
	r.set("Retry-After", "30")
	return r
}

// done are the steps that have happened.
func (t *task) done(now time.Time) []step {
	n := 0
	for n < len(t.plan) && !now.Before(t.start.Add(t.plan[n].after)) {
		n++
	}
	return t.plan[:n]
}

// final is the end of a task, if it has come.
func (t *task) final(now time.Time) (step, bool) {
	steps := t.done(now)
	last := steps[len(steps)-1]
	return last, last.state != ""
}

func (t *task) view(b *BMC, now time.Time) obj {
	messages, percent := []obj{}, 0
	for _, s := range t.done(now) {
		messages = append(messages, s.message)
		if s.percent >= 0 {
			percent = s.percent
		}
	}
	if t.headers == nil {
		t.headers = []string{}
	}
	o := obj{
		"@odata.id": tasksURI + "/" + t.id, "@odata.type": "#Task.v1_4_3.Task", "HidePayload": false, "Id": t.id,
		"Messages": messages, "Name": "Task " + t.id, "PercentComplete": percent,
		"Payload":   obj{"HttpHeaders": t.headers, "HttpOperation": "POST", "JsonBody": t.body, "TargetUri": t.uri},
		"StartTime": b.stamp(t.start, clock.Seconds), "TaskState": "Running", "TaskStatus": message.OK,
	}
	if end, over := t.final(now); over {
		o["EndTime"], o["TaskState"] = b.stamp(t.start.Add(end.after), clock.Seconds), end.state
		if end.state != "Completed" {
			o["TaskStatus"] = message.Warning
		}
	}
	if !t.closed {
		o["TaskMonitor"] = monitorsURI + "/" + t.id
	}
	return o
}

// settleTasks lets happen what is due: effects, and events about changes of
// state. Progress is no event.
func (b *BMC) settleTasks(now time.Time) (changed bool) {
	for _, t := range slices.Clone(b.tasks) {
		for _, s := range t.done(now)[min(t.told, len(t.done(now))):] {
			t.told++
			if s.effect != nil {
				s.effect(t)
				changed = true
			}
			switch {
			case t.told == 1:
				b.tellTask(t, s.message, now)
			case s.state == "Completed":
				b.tellTask(t, message.Task("TaskCompletedOK", t.id), now)
			case s.state != "":
				b.tellTask(t, message.Task("TaskAborted", t.id), now)
			}
		}
	}
	return changed
}

func (b *BMC) tellTask(t *task, m obj, now time.Time) {
	at := b.stamp(now, clock.Seconds)
	b.hub.Tell(func(id int) events.Event { return events.Task(id, tasksURI+"/"+t.id, m, at) })
}

func getTaskService(b *BMC, q *request) reply {
	return ok(obj{
		"@odata.id": taskServiceURI, "@odata.type": "#TaskService.v1_1_4.TaskService",
		"CompletedTaskOverWritePolicy": "Oldest", "DateTime": b.stamp(q.now, clock.Seconds), "Id": "TaskService",
		"LifeCycleEventOnTaskStateChange": true, "Name": "Task Service", "ServiceEnabled": true,
		"Status": obj{"State": "Enabled"}, "Tasks": link(tasksURI),
	})
}

func getTasks(b *BMC, _ *request) reply {
	ids := make([]string, len(b.tasks))
	for i, t := range b.tasks {
		ids[i] = t.id
	}
	return collection(tasksURI, "TaskCollection", "Task Collection", ids, nil)
}

func (b *BMC) task(id string) *task {
	if b.CurrentFault().Kind == LostTasks {
		return nil
	}
	for _, t := range b.tasks {
		if t.id == id {
			return t
		}
	}
	return nil
}

func getTask(b *BMC, q *request) reply {
	t := b.task(q.args["task"])
	if t == nil {
		return notFound("Task", q.args["task"])
	}
	return ok(t.view(b, q.now))
}

// getMonitor says once that the work is done, and then knows nothing of it.
func getMonitor(b *BMC, q *request) reply {
	t := b.task(q.args["task"])
	if t == nil || t.closed {
		return notFound("Task", q.args["task"])
	}
	if _, over := t.final(q.now); !over {
		return t.accepted(b, q.now)
	}
	t.closed = true
	return noContent()
}

// LoseTasks forgets every task, as a BMC does that restarts amid an update.
// Their effects are lost too.
func (b *BMC) LoseTasks() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tasks = nil
}

package bmcsim

import (
	"net/http"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/clock"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/events"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/hardware"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/tasks"
)

const (
	taskServiceURI = "/redfish/v1/TaskService"
	tasksURI       = taskServiceURI + "/Tasks"
	monitorsURI    = taskServiceURI + "/TaskMonitors"
)

func taskRoutes() []route {
	return []route{
		{path: taskServiceURI, do: gets(getTaskService)},
		{path: tasksURI, do: gets(getTasks)},
		{path: tasksURI + "/{task}", do: gets(getTask)},
		{path: monitorsURI + "/{task}", do: gets(getMonitor)},
	}
}

// begin starts a task for a request and answers 202 with its monitor.
func (b *BMC) begin(q *request, headers []string, plan []tasks.Step) reply {
	t := &tasks.Task{URI: q.path, Start: q.now, Headers: headers, Plan: plan}
	if q.header.Get("Content-Type") == jsonType {
		t.Said = string(q.body)
	}
	b.tasks.Begin(t)
	b.settleTasks(q.now)
	return b.accepted(t, q.now)
}

// accepted is the answer to a request whose work goes on, and of the monitor
// while it does.
func (b *BMC) accepted(t *tasks.Task, now time.Time) reply {
	monitor := monitorsURI + "/" + t.ID
	r := reply{status: http.StatusAccepted, body: t.Accepted(tasksURI, monitor, now, b.state.Clock)}
	r.set("Location", monitor)
	r.set("Retry-After", "30")
	return r
}

// settleTasks lets happen what is due, and tells listeners of tasks that began or
// ended.
func (b *BMC) settleTasks(now time.Time) (changed bool) {
	at := b.stamp(now, clock.Seconds)
	return b.tasks.Settle(now, func(t *tasks.Task, m obj) {
		b.hub.Tell(func(id int) events.Event { return events.Task(id, tasksURI+"/"+t.ID, m, at) })
	})
}

func getTaskService(b *BMC, q *request) reply {
	return ok(obj{
		"@odata.id": taskServiceURI, "@odata.type": "#TaskService.v1_1_4.TaskService",
		"CompletedTaskOverWritePolicy": "Oldest", "DateTime": b.stamp(q.now, clock.Seconds), "Id": "TaskService",
		"LifeCycleEventOnTaskStateChange": true, "Name": "Task Service", "ServiceEnabled": true,
		"Status": obj{"State": "Enabled"}, "Tasks": hardware.Link(tasksURI),
	})
}

func getTasks(b *BMC, _ *request) reply {
	return collection(tasksURI, "TaskCollection", "Task Collection", b.tasks.IDs(), nil)
}

func (b *BMC) task(id string) *tasks.Task {
	if b.CurrentFault().Kind == LostTasks {
		return nil
	}
	return b.tasks.Find(id)
}

func getTask(b *BMC, q *request) reply {
	t := b.task(q.args["task"])
	if t == nil {
		return notFound("Task", q.args["task"])
	}
	return ok(t.Body(tasksURI, monitorsURI+"/"+t.ID, q.now, b.state.Clock))
}

// getMonitor says once that the work is done, and then knows nothing of it.
func getMonitor(b *BMC, q *request) reply {
	t := b.task(q.args["task"])
	if t == nil || t.Closed() {
		return notFound("Task", q.args["task"])
	}
	if !t.Over(q.now) {
		return b.accepted(t, q.now)
	}
	t.Close()
	return noContent()
}

// LoseTasks forgets every task, as a BMC does that restarts amid an update.
// Their effects are lost too.
func (b *BMC) LoseTasks() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tasks.Forget()
}

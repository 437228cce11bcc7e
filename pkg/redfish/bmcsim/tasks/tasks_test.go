package tasks

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/clock"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time { return noon.Add(time.Duration(seconds * float64(time.Second))) }

func begin(l *List, plan []Step) *Task {
	t := &Task{URI: "/update", Start: noon, Plan: plan}
	l.Begin(t)
	return t
}

// look writes what a client sees of a task as "State percent messages".
func look(t *Task, now time.Time) string {
	o := t.Body("/tasks", "/monitors/"+t.ID, now, 0)
	messages, _ := o["Messages"].([]map[string]any)
	return fmt.Sprintf("%v/%v %v%% %d", o["TaskState"], o["TaskStatus"], o["PercentComplete"], len(messages))
}

func TestTheCourseOfATask(t *testing.T) {
	for _, tt := range []struct {
		name string
		plan []Step
		want string
	}{
		{"an update of 8 s", Progress(8*time.Second, nil), `0 Running/OK 0% 1
0.9 Running/OK 0% 1
1 Running/OK 10% 2
2 Running/OK 25% 3
6.5 Running/OK 85% 7
7.9 Running/OK 100% 8
8 Completed/OK 100% 10
1000 Completed/OK 100% 10`},
		{"an image that is no good", Failure(8 * time.Second), `0 Running/OK 0% 1
0.9 Running/OK 0% 1
1 Exception/Warning 0% 2
8 Exception/Warning 0% 2`},
		{"a dump", []Step{{After: 2 * time.Second, Percent: Unchanged, Message: map[string]any{}, State: Completed}}, `0 Running/OK 0% 1
1.9 Running/OK 0% 1
2 Completed/OK 0% 2`},
	} {
		var l List
		task := begin(&l, tt.plan)
		for line := range strings.Lines(tt.want) {
			seconds, want, _ := strings.Cut(strings.TrimSpace(line), " ")
			var s float64
			if _, err := fmt.Sscan(seconds, &s); err != nil {
				t.Fatal(err)
			}
			if got := look(task, at(s)); got != want {
				t.Errorf("%s: after %s s: %s, want %s", tt.name, seconds, got, want)
			}
			if over := task.Over(at(s)); over != !strings.HasPrefix(want, "Running") {
				t.Errorf("%s: after %s s: over %v", tt.name, seconds, over)
			}
		}
	}
}

func TestMessagesOfATask(t *testing.T) {
	var l List
	begin(&l, nil)
	task := begin(&l, []Step{{After: time.Second, Percent: 40}, {After: time.Second, Percent: Unchanged, State: Completed}})
	messages, _ := task.Body("/tasks", "/m", at(1), 0)["Messages"].([]map[string]any)
	var got []string
	for _, m := range messages {
		got = append(got, fmt.Sprintf("%v %v", m["MessageId"], m["MessageArgs"]))
	}
	want := []string{"TaskEvent.1.0.TaskStarted [1]", "TaskEvent.1.0.TaskProgressChanged [1 40]", "TaskEvent.1.0.TaskCompletedOK [1]"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What is due happens once, in its order, however late somebody looks; listeners
// hear of begin and end alone.
func TestSettle(t *testing.T) {
	for _, tt := range []struct {
		name  string
		looks []float64
	}{
		{"at once", []float64{0, 1, 2, 3, 4, 5}},
		{"late", []float64{100}},
		{"twice at the same time", []float64{0, 0, 4, 4, 4}},
		{"the clock goes back", []float64{4, 1, 4}},
	} {
		var l List
		effects := 0
		var told []string
		tell := func(task *Task, m map[string]any) { told = append(told, fmt.Sprintf("%s %v", task.ID, m["MessageId"])) }
		begin(&l, Progress(4*time.Second, func(*Task) { effects++ }))
		begin(&l, Failure(4*time.Second))
		changes := 0
		for _, s := range tt.looks {
			if l.Settle(at(s), tell) {
				changes++
			}
		}
		if effects != 1 || changes != 1 {
			t.Errorf("%s: %d effects, %d changes", tt.name, effects, changes)
		}
		count := map[string]int{}
		for _, line := range told {
			count[line]++
		}
		want := map[string]int{
			"0 TaskEvent.1.0.TaskStarted": 1, "0 TaskEvent.1.0.TaskCompletedOK": 1,
			"1 TaskEvent.1.0.TaskStarted": 1, "1 TaskEvent.1.0.TaskAborted": 1,
		}
		if diff := cmp.Diff(want, count); diff != "" {
			t.Errorf("%s: told (-want +got):\n%s", tt.name, diff)
		}
	}
}

// An update restarts the BMC, which forgets its tasks, from within an effect.
func TestAnEffectMayForgetAll(t *testing.T) {
	var l List
	ran := 0
	forget := func(*Task) { ran++; l.Forget() }
	begin(&l, Progress(time.Second, forget))
	begin(&l, Progress(time.Second, forget))
	l.Settle(at(1), func(*Task, map[string]any) {})
	if ran != 2 || len(l.IDs()) != 0 || l.Find("0") != nil {
		t.Errorf("%d effects, left are %v", ran, l.IDs())
	}
	if next := begin(&l, nil); next.ID != "2" {
		t.Errorf("an id is used again: %s", next.ID)
	}
}

func TestForgottenTasksHaveNoEffect(t *testing.T) {
	var l List
	begin(&l, Progress(time.Second, func(*Task) { t.Error("it has an effect") }))
	l.Forget()
	if l.Settle(at(2), func(*Task, map[string]any) { t.Error("it is told of") }) {
		t.Error("something has changed")
	}
}

func TestAHundredAreKept(t *testing.T) {
	var l List
	for range maxTasks + 5 {
		begin(&l, nil)
	}
	ids := l.IDs()
	if len(ids) != maxTasks || ids[0] != "5" || l.Find("4") != nil || l.Find("104") == nil {
		t.Errorf("%d are kept, from %s on", len(ids), ids[0])
	}
}

func TestBodies(t *testing.T) {
	var l List
	task := &Task{URI: "/update", Start: noon, Plan: Failure(8 * time.Second)}
	l.Begin(task)
	want := map[string]any{
		"@odata.id": "/tasks/0", "@odata.type": "#Task.v1_4_3.Task", "HidePayload": false, "Id": "0", "Name": "Task 0",
		"PercentComplete": 0, "TaskState": "Running", "TaskStatus": "OK", "TaskMonitor": "/monitors/0",
		"StartTime": "2026-03-01T13:00:00+00:00",
		"Payload":   map[string]any{"HttpHeaders": []string{}, "HttpOperation": "POST", "JsonBody": "", "TargetUri": "/update"},
		"Messages":  []map[string]any{task.Plan[0].Message},
	}
	hour := clock.Offset(time.Hour)
	if diff := cmp.Diff(want, task.Body("/tasks", "/monitors/0", noon, hour)); diff != "" {
		t.Errorf("running (-want +got):\n%s", diff)
	}
	// The answer to the request, and only it, leaves an empty body out.
	delete(want["Payload"].(map[string]any), "JsonBody")
	if diff := cmp.Diff(want, task.Accepted("/tasks", "/monitors/0", noon, hour)); diff != "" {
		t.Errorf("accepted (-want +got):\n%s", diff)
	}
	task.Said = `{"a":1}`
	payload, _ := task.Accepted("/tasks", "/monitors/0", noon, hour)["Payload"].(map[string]any)
	if payload["JsonBody"] != `{"a":1}` {
		t.Errorf("the payload is %v", payload)
	}
	end := task.Body("/tasks", "/monitors/0", at(3600), hour)
	if end["EndTime"] != "2026-03-01T13:00:01+00:00" { // when it ended, not when it was looked at
		t.Errorf("it ended at %v", end["EndTime"])
	}
}

// The monitor says once that a task is over; the task itself stays.
func TestAClosedTaskHasNoMonitor(t *testing.T) {
	var l List
	task := begin(&l, nil)
	if task.Closed() {
		t.Error("it is closed from the start")
	}
	task.Close()
	if monitor, shown := task.Body("/tasks", "/m", noon, 0)["TaskMonitor"]; shown || !task.Closed() || l.Find(task.ID) != task {
		t.Errorf("monitor %v", monitor)
	}
}

// A dump's task says where the dump is, in a header that it adds.
func TestAnEffectMayAddAHeader(t *testing.T) {
	var l List
	task := &Task{Start: noon, Headers: []string{"Host: x"}, Plan: []Step{
		{After: time.Second, State: Completed, Effect: func(t *Task) { t.Headers = append(t.Headers, "Location: /d/1") }},
	}}
	l.Begin(task)
	l.Settle(at(1), func(*Task, map[string]any) {})
	payload, _ := task.Body("/tasks", "/m", at(1), 0)["Payload"].(map[string]any)
	if diff := cmp.Diff([]string{"Host: x", "Location: /d/1"}, payload["HttpHeaders"]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

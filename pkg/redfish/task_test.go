package redfish_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish"
)

const (
	monitorURI = "/redfish/v1/TaskService/TaskMonitors/7"
	taskURI    = "/redfish/v1/TaskService/Tasks/7"
)

// script is a BMC that answers looks at a task line by line; the last line
// stands for all further ones. A line is "STATUS BODY", or "cut" for no answer.
// Before the lines of a monitor stands "monitor:".
type script struct {
	lines   []string
	monitor []string
	wait    string // Retry-After of every answer
	looks   []time.Time
	asked   []string
}

func (s *script) Ask(_ context.Context, uri string) (*redfish.Reply, error) {
	s.looks, s.asked = append(s.looks, time.Now()), append(s.asked, uri)
	from := &s.lines
	if uri == monitorURI {
		from = &s.monitor
	}
	line := (*from)[0]
	if len(*from) > 1 {
		*from = (*from)[1:]
	}
	if line == "cut" {
		return nil, fault.New(fault.Unavailable, "read "+uri, "connection refused")
	}
	code, body, _ := strings.Cut(line, " ")
	var status int
	_, _ = fmt.Sscan(code, &status)
	header := http.Header{}
	if s.wait != "" {
		header.Set("Retry-After", s.wait)
	}
	if status >= 400 {
		refusal := &redfish.StatusError{Status: status, Messages: []redfish.Message{{ID: "X", Text: body}}}
		kind := map[int]fault.Kind{400: fault.BadInput, 403: fault.Denied, 404: fault.NotFound}[status]
		if status >= 500 {
			kind = fault.Unavailable
		}
		return nil, &fault.Error{Kind: kind, Err: refusal}
	}
	return &redfish.Reply{Status: status, Header: header, Body: []byte(body)}, nil
}

func task(state, status string, percent int) string {
	return fmt.Sprintf(`200 {"@odata.id":%q,"@odata.type":"#Task.v1_4_3.Task","TaskState":%q,"TaskStatus":%q,"PercentComplete":%d,"Messages":[]}`,
		taskURI, state, status, percent)
}

func TestWaitTask(t *testing.T) {
	running := func(percent int) string { return task("Running", "OK", percent) }
	both := redfish.Task{Monitor: monitorURI, URI: taskURI}
	for _, c := range []struct {
		name    string
		task    redfish.Task
		lines   []string
		monitor []string
		want    string
	}{
		{
			name: "runs and is done", task: both, lines: []string{running(0), running(60), task("Completed", "OK", 100)},
			want: "the task is done; last seen Completed at 100 %",
		},
		{
			name: "ends in an exception", task: both,
			lines: []string{running(10), `200 {"TaskState":"Exception","TaskStatus":"Warning","PercentComplete":"55","Messages":[{"MessageId":"Update.1.0.VerificationFailed","Message":"The image is not for this machine."}]}`},
			want:  "the task is failed: the BMC ended it with Exception; last seen Exception at 55 %; The image is not for this machine.",
		},
		{
			name: "completed with errors", task: both, lines: []string{task("Completed", "Critical", 100)},
			want: "the task is failed: the BMC completed it with a critical status; last seen Completed at 100 %",
		},
		{
			name: "interrupted is not ended", task: both, lines: []string{task("Interrupted", "OK", 5), task("Suspended", "OK", 5), task("Completed", "OK", 100)},
			want: "the task is done; last seen Completed at 100 %",
		},
		{
			name: "the monitor says 204 once", task: redfish.Task{Monitor: monitorURI}, monitor: []string{"202 ", "202 ", "204 ", "404 gone"},
			want: "the task is done",
		},
		{
			name: "the 204 was lost on the way", task: redfish.Task{Monitor: monitorURI}, monitor: []string{"202 ", "cut", "404 gone"},
			want: "the task is unknown: its monitor is gone, and the answer that told the outcome did not arrive",
		},
		{
			name: "the monitor leads to the task", task: redfish.Task{Monitor: monitorURI}, lines: []string{task("Completed", "OK", 100)},
			monitor: []string{"202" + strings.TrimPrefix(running(40), "200"), "404 gone"},
			want:    "the task is done; last seen Completed at 100 %",
		},
		{
			name: "the monitor tells that the operation was refused", task: redfish.Task{Monitor: monitorURI}, monitor: []string{"202 ", "400 the image is too old"},
			want: "the task is failed: the BMC answered 400 Bad Request: the image is too old; the image is too old",
		},
		{
			name: "the BMC restarts and still knows it", task: both, lines: []string{running(30), "cut", "cut", "cut", "cut", "503 starting", running(90), task("Completed", "OK", 100)},
			want: "the task is done; last seen Completed at 100 %",
		},
		{
			name: "the BMC restarts and has forgotten it", task: both, lines: []string{running(99), "cut", "cut", "404 gone"}, monitor: []string{"404 gone"},
			want: "the task is unknown: the BMC no longer knows the task: it restarted, or has forgotten it; last seen Running at 99 %",
		},
		{
			name: "it has no monitor and is forgotten", task: redfish.Task{URI: taskURI}, lines: []string{running(99), "404 gone"},
			want: "the task is unknown: the BMC no longer knows the task: it restarted, or has forgotten it; last seen Running at 99 %",
		},
		{
			name: "not found for a moment", task: both, lines: []string{running(1), "404 gone", "404 gone", task("Completed", "OK", 100)},
			want: "the task is done; last seen Completed at 100 %",
		},
		{
			name: "we may not look", task: redfish.Task{URI: taskURI}, lines: []string{"403 no"},
			want: "the task is unknown: the BMC does not tell: the BMC answered 403 Forbidden: no",
		},
		{
			name: "it never ends", task: both, lines: []string{running(50)},
			want: "the task is unknown: it has not ended within 30m0s; last seen Running at 50 %",
		},
		{
			name: "the BMC never comes back", task: both, lines: []string{running(50), "cut"},
			want: "the task is unknown: it was not seen to end within 30m0s, and the last look failed: read " + taskURI + ": connection refused; last seen Running at 50 %",
		},
		{
			name: "something else stands there", task: redfish.Task{URI: taskURI}, lines: []string{"200 <html>"},
			want: "the task is unknown: the BMC shows no task there",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{lines: c.lines, monitor: c.monitor}
				r := redfish.WaitTask(t.Context(), s, c.task, redfish.Watch{})
				if diff := cmp.Diff(c.want, r.String()); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if err := r.Err(); (err == nil) != (r.End == redfish.TaskDone) || redfish.Uncertain(err) != (r.End == redfish.TaskUnknown) {
					t.Errorf("as an error: %v", err)
				}
			})
		})
	}
}

// A BMC whose clock stands at 1970, or that says 0, made others ask thousands of
// times in a second. One that says a day is looked at each minute.
func TestThreat35TaskThatNeverEnds(t *testing.T) {
	for _, wait := range []string{"", "0", "-5", "1", "86400", "99999999999999999999", "Thu, 01 Jan 1970 00:00:10 GMT", "soon"} {
		synctest.Test(t, func(t *testing.T) {
			s := &script{lines: []string{task("Running", "OK", 1)}, wait: wait}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			r := redfish.WaitTask(ctx, s, redfish.Task{URI: taskURI}, redfish.Watch{})
			for i := 1; i < len(s.looks); i++ {
				if d := s.looks[i].Sub(s.looks[i-1]); d < time.Second || d > time.Minute {
					t.Errorf("Retry-After %q: %s between two looks", wait, d)
				}
			}
			if r.Polls < 9 || r.Polls > 600 || r.End != redfish.TaskUnknown {
				t.Errorf("Retry-After %q: %d looks in ten minutes, %s", wait, r.Polls, r)
			}
		})
	}
}

func TestWaitTaskTellsItsProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []int
		s := &script{lines: []string{task("Running", "OK", 0), task("Running", "OK", 0), task("Running", "OK", 50), task("Completed", "OK", 100)}}
		r := redfish.WaitTask(t.Context(), s, redfish.Task{URI: taskURI}, redfish.Watch{Progress: func(r redfish.TaskReport) { seen = append(seen, r.Percent) }})
		if diff := cmp.Diff([]int{0, 50, 100}, seen); diff != "" || r.Polls != 4 {
			t.Errorf("%d looks (-want +got):\n%s", r.Polls, diff)
		}
	})
}

func TestWaitTaskStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := &script{lines: []string{task("Running", "OK", 3)}}
		time.AfterFunc(90*time.Second, cancel)
		if r := redfish.WaitTask(ctx, s, redfish.Task{URI: taskURI}, redfish.Watch{}); r.Why != "the wait was stopped" || r.Percent != 3 {
			t.Errorf("got %s", r)
		}
	})
}

func TestTaskOf(t *testing.T) {
	body := `{"@odata.id":"` + taskURI + `","@odata.type":"#Task.v1_4_3.Task","TaskState":"Running"}`
	for _, c := range []struct {
		name     string
		status   int
		location string
		body     string
		want     redfish.Task
		begun    bool
	}{
		{"OpenBMC: the monitor in the header, the task in the body", 202, monitorURI, body, redfish.Task{Monitor: monitorURI, URI: taskURI}, true},
		{"iDRAC: the task in the header", 202, "https://idrac" + taskURI, "", redfish.Task{URI: taskURI}, true},
		{"a monitor below the task", 202, taskURI + "/Monitor", "", redfish.Task{Monitor: taskURI + "/Monitor"}, true},
		{"only the body", 202, "", body, redfish.Task{URI: taskURI}, true},
		{"created, and a task all the same", 201, taskURI, body, redfish.Task{URI: taskURI}, true},
		{"done at once", 200, "", `{"Name":"x"}`, redfish.Task{}, false},
		{"a member was made", 201, "/redfish/v1/AccountService/Accounts/3", `{"Id":"3"}`, redfish.Task{}, false},
		{"done, without a body", 204, "", "", redfish.Task{}, false},
		{"accepted, and nothing to look at", 202, "", "", redfish.Task{}, false},
		{"a location that leads nowhere", 202, "mailto:x", "", redfish.Task{}, false},
	} {
		r := &redfish.Reply{Status: c.status, Header: http.Header{"Location": {c.location}}, Body: []byte(c.body)}
		got, begun := r.TaskOf()
		got.Wait = 0
		if got != c.want || begun != c.begun {
			t.Errorf("%s: %+v, %v; want %+v, %v", c.name, got, begun, c.want, c.begun)
		}
	}
	r := &redfish.Reply{Status: 202, Header: http.Header{"Location": {monitorURI}, "Retry-After": {"30"}}}
	if got, _ := r.TaskOf(); got.Wait != 30*time.Second {
		t.Errorf("the BMC asks for 30 s, and it is looked at after %s", got.Wait)
	}
}

package events

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish/recorded"
)

// parse reads a whole stream.
func parse(text string) (ids, data []string, err error) {
	in := newFrames(strings.NewReader(text), func() {})
	for {
		f, err := in.next()
		if err != nil {
			return ids, data, err
		}
		ids, data = append(ids, f.id), append(data, string(f.data))
	}
}

func TestFrames(t *testing.T) {
	for _, c := range []struct {
		name, text string
		ids, data  []string
	}{
		{"one", "id: 1\ndata: a\n\n", []string{"1"}, []string{"a"}},
		{"many lines", "data: {\ndata:   \"a\"\ndata: }\nid:7\n\n", []string{"7"}, []string{"{\n  \"a\"\n}"}},
		{"CRLF, comments, unknown fields", ": ping\r\nevent: x\r\ndata: a\r\nid: 2\r\n\r\n: ping\r\n\r\ndata: b\r\n\r\n", []string{"2", ""}, []string{"a", "b"}},
		{"an id alone is no event", "id: 3\n\n\n\ndata: c\n\n", []string{"3"}, []string{"c"}},
		{"half an event is none", "data: a\n\ndata: b\n", []string{""}, []string{"a"}},
		{"a field without a value", "data\ndata:\n\n", []string{""}, []string{"\n"}},
		{"nothing", "", nil, nil},
	} {
		ids, data, err := parse(c.text)
		if !errors.Is(err, io.EOF) {
			t.Errorf("%s: ended by %v", c.name, err)
		}
		if diff := cmp.Diff([][]string{c.ids, c.data}, [][]string{ids, data}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestFramesAreBounded(t *testing.T) {
	for name, text := range map[string]string{
		"one endless line":       "data: " + strings.Repeat("x", maxFrame+1),
		"endless lines":          strings.Repeat("data: 0123456789\n", maxFrame/10),
		"an endless line of ids": "id: " + strings.Repeat("1", maxFrame+1) + "\n",
	} {
		if _, _, err := parse(text); !fault.Is(err, fault.TooLarge) {
			t.Errorf("%s: %v; want too large", name, err)
		}
	}
	// Heartbeats are no event, however many come before the next one.
	for _, beat := range []string{":\n", ": 0123456789\n\n", "\n", "id: 1\n\n"} {
		if _, data, err := parse(strings.Repeat(beat, maxFrame) + "data: a\n\n"); !errors.Is(err, io.EOF) || len(data) != 1 {
			t.Errorf("after %q for long: %v, ended by %v", beat, data, err)
		}
	}
	in := newFrames(strings.NewReader("retry: 20000\ndata: a\n\nretry: -1\ndata: b\n\nretry: 99999999\ndata: c\n\n"), func() {})
	for _, want := range []time.Duration{20 * time.Second, 0, time.Minute} {
		if f, err := in.next(); err != nil || f.retry != want {
			t.Errorf("retry %v, %v; want %v", f.retry, err, want)
		}
	}
}

// What a real bmcweb sent, byte for byte.
func TestRecordedStream(t *testing.T) {
	text, err := os.ReadFile("testdata/openbmc.sse")
	if err != nil {
		t.Fatal(err)
	}
	ids, data, err := parse(string(text))
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	var all []Event
	for _, d := range data {
		events, lost, err := decode([]byte(d))
		if err != nil || lost {
			t.Errorf("lost %v, %v", lost, err)
		}
		all = append(all, events...)
	}
	want := []Event{
		{MessageID: "OpenBMC.0.1.Hello", Text: "sse hello"},
		{
			ID: "5", MessageID: "TaskEvent.1.0.TaskStarted", Severity: "OK", Text: "The task with Id '0' has started.", Args: []string{"0"},
			Origin: "/redfish/v1/TaskService/Tasks/0", Time: "2026-11-21T23:35:56+00:00",
		},
		{
			ID: "6", MessageID: "TaskEvent.1.0.TaskCompletedOK", Severity: "OK", Text: "The task with Id '0' has completed.", Args: []string{"0"},
			Origin: "/redfish/v1/TaskService/Tasks/0", Time: "2026-11-21T23:35:57+00:00",
		},
	}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"4", "5", "6"}, ids); diff != "" {
		t.Errorf("ids (-want +got):\n%s", diff)
	}
}

func TestDecode(t *testing.T) {
	for _, c := range []struct {
		name, body string
		want       []Event
		lost       bool
		fails      bool
	}{
		{
			name: "a test event: an object as origin, the older name of the severity",
			body: `{"Id":"3","Context":"c","Events":[{"EventTimestamp":"t","Message":"hello","MessageArgs":["a",1],"MessageId":"OpenBMC.0.1.Hello","OriginOfCondition":{"@odata.id":"/redfish/v1/Systems/system"},"Severity":"Warning"}]}`,
			want: []Event{{MessageID: "OpenBMC.0.1.Hello", Severity: "Warning", Text: "hello", Args: []string{"a", "1"}, Origin: "/redfish/v1/Systems/system", Time: "t", Context: "c"}},
		},
		{name: "an event that tells nothing", body: `{"Events":[{"MemberId":"0"}],"Id":"2"}`, want: []Event{{}}},
		{name: "the buffer was exceeded", body: `{"@odata.type":"#Message.v1_1_1.Message","MessageId":"Base.1.19.EventBufferExceeded"}`, lost: true},
		{name: "the same, as an event", body: `{"Events":[{"MessageId":"Base.1.19.EventBufferExceeded"},{"EventId":9}]}`, want: []Event{{ID: "9"}}, lost: true},
		{name: "a metric report", body: `{"@odata.type":"#MetricReport.v1_0_0.MetricReport","MetricValues":[]}`},
		{name: "mistyped members", body: `{"Events":[{"EventId":{"x":1},"MessageArgs":"a","Message":null},7,null]}`, want: []Event{{}, {}, {}}},
		{name: "an origin elsewhere", body: `{"Events":[{"OriginOfCondition":"https://elsewhere/x"}]}`, want: []Event{{}}},
		{name: "no JSON", body: `<html>`, fails: true},
		{name: "too many", body: `{"Events":[` + strings.Repeat("{},", maxEvents) + `{}]}`, want: make([]Event, maxEvents), lost: true},
	} {
		events, lost, err := decode([]byte(c.body))
		if diff := cmp.Diff(c.want, events); diff != "" || lost != c.lost || (err != nil) != c.fails {
			t.Errorf("%s: lost %v, %v (-want +got):\n%s", c.name, lost, err, diff)
		}
	}
}

// Whatever a BMC streams, reading ends, within bounds.
func FuzzStream(f *testing.F) {
	f.Add("id: 1\ndata: {\"Events\":[{\"EventId\":5}]}\n\n")
	f.Add("\r\n\r\ndata\n:\nretry: 1\n\n")
	for _, body := range recorded.Bodies(f) {
		f.Add("data: " + strings.ReplaceAll(string(body), "\n", "\ndata: ") + "\n\n")
	}
	f.Fuzz(func(t *testing.T, text string) {
		_, data, err := parse(text)
		if err == nil {
			t.Error("a stream without an end")
		}
		for _, d := range data {
			if events, _, err := decode([]byte(d)); err == nil && len(events) > maxEvents {
				t.Errorf("%d events", len(events))
			}
		}
	})
}

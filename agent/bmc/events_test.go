package bmc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/events"
)

// services is the iDRAC with an event service and an update service.
func services() map[string]string {
	docs := idrac()
	docs["/redfish/v1/"] = strings.Replace(docs["/redfish/v1/"], `{"Systems"`,
		`{"Product":"Integrated Dell Remote Access Controller","EventService":{"@odata.id":"/e"},"UpdateService":{"@odata.id":"/u"},"Systems"`, 1)
	docs["/e"] = `{"ServerSentEventUri":"/sse","Subscriptions":{"@odata.id":"/subs"}}`
	docs["/u"] = `{"MultipartHttpPushUri":"/push","HttpPushUri":"/raw"}`
	return docs
}

func TestEventsThroughTheLane(t *testing.T) {
	v := &vendor{docs: services()}
	v.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/sse" || r.ProtoMajor != 1 {
			return false
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "id: 1\ndata: {\"Events\":[{\"EventId\":\"1\",\"MessageId\":\"IDRAC.2.4.PSU0001\"}]}\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return true
	}
	_, l := v.start(t, func(c *bmc.Config) { c.Streams = 4 })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var heard []events.Notice
	err := l.Events(ctx, nil, func(n events.Notice) {
		if heard = append(heard, n); len(heard) == 2 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("ended by %v", err)
	}
	if len(heard) != 2 || !heard[0].Gap || heard[1].Way != events.ByStream || heard[1].Events[0].MessageID != "IDRAC.2.4.PSU0001" {
		t.Errorf("heard %+v", heard)
	}
	if got := l.Stats().Profile; got != "iDRAC" {
		t.Errorf("taken for %s", got)
	}
}

func TestUpdate(t *testing.T) {
	content := bytes.Repeat([]byte("firmware"), 1000)
	image := redfish.Image{Name: "x.exe", Size: int64(len(content)), Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }}
	for _, c := range []struct {
		name, task string
		want       string
		uncertain  bool
	}{
		{"done", `{"TaskState":"Completed","TaskStatus":"OK","PercentComplete":100}`, "the task is done; last seen Completed at 100 %", false},
		{"failed", `{"TaskState":"Exception"}`, "the task is failed: the BMC ended it with Exception; last seen Exception", false},
		{"never ends", `{"TaskState":"Running","PercentComplete":3}`, "the task is unknown: it has not ended within 3s; last seen Running at 3 %", true},
	} {
		v := &vendor{docs: services()}
		v.docs["/redfish/v1/TaskService/Tasks/1"] = c.task
		v.hook = func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPost || r.URL.Path != "/push" {
				return false
			}
			if n, _ := io.Copy(io.Discard, r.Body); n < image.Size {
				t.Errorf("%d bytes arrived", n)
			}
			w.Header().Set("Location", "/redfish/v1/TaskService/Tasks/1")
			w.WriteHeader(http.StatusAccepted)
			return true
		}
		_, l := v.start(t, nil)
		s, err := l.UpdateService(t.Context())
		if err != nil || s.URI != "/push" || s.Raw {
			t.Fatalf("%+v, %v", s, err)
		}
		r, err := l.Update(t.Context(), redfish.Upload{URI: s.URI, Image: image}, redfish.Watch{Deadline: 3 * time.Second, Jitter: func() float64 { return 0 }})
		if diff := cmp.Diff(c.want, r.String()); diff != "" || redfish.Uncertain(err) != c.uncertain || (err == nil) != (r.End == redfish.TaskDone) {
			t.Errorf("%s: %v (-want +got):\n%s", c.name, err, diff)
		}
	}
}

func TestUpdateService(t *testing.T) {
	for doc, want := range map[string]string{
		`{"HttpPushUri":"/raw","MaxImageSizeBytes":100}`: "{URI:/raw Raw:true Max:100 BMC:/redfish/v1/Managers/iDRAC.Embedded.1}",
		`{}`: "unsupported", "501": "unsupported",
	} {
		docs := services()
		docs["/u"] = doc
		_, l := serve(t, docs)
		s, err := l.UpdateService(t.Context())
		got := string(fault.KindOf(err))
		if err == nil {
			got = fmt.Sprintf("%+v", s)
		}
		if got != want {
			t.Errorf("%s: %s, %v; want %s", doc, got, err, want)
		}
	}
}

// Against OpenBMC as it is simulated: an update that is done, one that is
// refused later, and one amid which the BMC loses its memory. The version that
// is read back is what counts.
func TestUpdateOfOpenBMC(t *testing.T) {
	for _, c := range []struct {
		name, image string
		lose        bool
		want        redfish.TaskEnd
	}{
		{"done", "version=2.20.0\n", false, redfish.TaskDone},
		{"refused later", "activation=invalid\n", false, redfish.TaskFailed},
		{"forgotten", "version=2.20.0\n", true, redfish.TaskUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, _, l := start(t, quick(func(cfg *bmcsim.Config) { cfg.UpdateTime = 500 * time.Millisecond }))
			s, err := l.UpdateService(t.Context())
			if err != nil || s.Raw || s.Max == 0 {
				t.Fatalf("%+v, %v", s, err)
			}
			image := redfish.Image{Name: "image.tar", Size: int64(len(c.image)), Open: func() (io.ReadCloser, error) {
				return io.NopCloser(strings.NewReader(c.image)), nil
			}}
			u := redfish.Upload{URI: s.URI, Image: image, Targets: []string{string(s.BMC)}, ApplyTime: "OnReset"}
			if c.lose {
				u.Progress = func(int64) { time.AfterFunc(200*time.Millisecond, b.LoseTasks) }
			}
			// OpenBMC asks for 30 seconds; the last look falls before the deadline.
			r, err := l.Update(t.Context(), u, redfish.Watch{Deadline: 3 * time.Second, Jitter: func() float64 { return 0 }})
			if r.End != c.want || redfish.Uncertain(err) != (c.want == redfish.TaskUnknown) {
				t.Errorf("%s, %v; want %s", r, err, c.want)
			}
			if b.Stats().Sessions != 1 {
				t.Errorf("%d sessions; want 1", b.Stats().Sessions)
			}
		})
	}
}

func TestEventsOfOpenBMC(t *testing.T) {
	b, _, l := start(t, quick())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var heard []events.Event
	_ = l.Events(ctx, nil, func(n events.Notice) {
		if n.Gap && n.Way == events.ByStream { // it stands: what happens now is heard
			if err := b.Log("PowerSupplyFanFailed", "psu0", "psu0"); err != nil {
				t.Error(err)
			}
		}
		if heard = append(heard, n.Events...); len(heard) > 0 {
			cancel()
		}
	})
	if len(heard) == 0 || !strings.HasSuffix(heard[0].MessageID, ".PowerSupplyFanFailed") {
		t.Errorf("heard %+v", heard)
	}
}

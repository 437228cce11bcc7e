package redfish_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// pattern is an image of any size that nobody has to keep.
type pattern struct{ at int64 }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte((p.at + int64(i)) % 251)
	}
	p.at += int64(len(b))
	return len(b), nil
}

func image(size int64) redfish.Image {
	return redfish.Image{Name: "bmc.tar", Size: size, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(&pattern{}), nil
	}}
}

func digest(size int64) string {
	h := sha256.New()
	_, _ = io.CopyN(h, &pattern{}, size)
	return hex.EncodeToString(h.Sum(nil))
}

// pushed writes down what an upload consists of.
func pushed(r *http.Request) string {
	var b strings.Builder
	fmt.Fprintf(&b, "chunked %v\n", r.ContentLength < 0)
	parts, err := r.MultipartReader()
	if err != nil {
		h := sha256.New()
		_, _ = io.Copy(h, r.Body)
		fmt.Fprintf(&b, "%s %x", r.Header.Get("Content-Type"), h.Sum(nil))
		return b.String()
	}
	for {
		part, err := parts.NextPart()
		if err != nil {
			return b.String() + "end " + err.Error()
		}
		if part.FileName() == "" {
			body, _ := io.ReadAll(part)
			fmt.Fprintf(&b, "%s %s %s\n", part.FormName(), part.Header.Get("Content-Type"), body)
			continue
		}
		h := sha256.New()
		_, _ = io.Copy(h, part)
		fmt.Fprintf(&b, "%s %s %x\n", part.FormName(), part.FileName(), h.Sum(nil))
	}
}

func TestUpload(t *testing.T) {
	const size = 3<<20 + 17
	var got string
	c := hostile(t, true, func(w http.ResponseWriter, r *http.Request) {
		got = pushed(r)
		w.Header().Set("Location", monitorURI)
		w.Header().Set("Retry-After", "30")
		w.WriteHeader(http.StatusAccepted)
	})
	var last int64
	for _, test := range []struct {
		name string
		u    redfish.Upload
		want string
	}{
		{
			"multipart",
			redfish.Upload{Targets: []string{"/redfish/v1/UpdateService/FirmwareInventory/bmc"}, ApplyTime: "OnReset"},
			"chunked false\nUpdateParameters application/json {\"@Redfish.OperationApplyTime\":\"OnReset\",\"Targets\":[\"/redfish/v1/UpdateService/FirmwareInventory/bmc\"]}\n" +
				"UpdateFile bmc.tar " + digest(size) + "\nend EOF",
		},
		{"without targets", redfish.Upload{}, "chunked false\nUpdateParameters application/json {\"Targets\":[]}\nUpdateFile bmc.tar " + digest(size) + "\nend EOF"},
		{"raw", redfish.Upload{Raw: true}, "chunked false\napplication/octet-stream " + digest(size)},
	} {
		test.u.URI, test.u.Image, test.u.Progress = "/update", image(size), func(n int64) { last = n }
		reply, err := c.Upload(t.Context(), test.u)
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
		if task, begun := reply.TaskOf(); !begun || task.Monitor != monitorURI || last != size {
			t.Errorf("%s: %+v, %v, %d bytes of %d", test.name, task, begun, last, size)
		}
	}
}

func TestUploadHoldsNoImageInMemory(t *testing.T) {
	const size = 96 << 20
	c := hostile(t, false, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	if _, err := c.Fetch(t.Context(), "/redfish/v1/"); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := c.Upload(t.Context(), redfish.Upload{URI: "/update", Image: image(size)}); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > size/4 {
		t.Errorf("%d MiB were allocated for an image of %d MiB", grown>>20, size>>20)
	}
}

// A 401 is certain to have done nothing: the image is begun anew.
func TestUploadAfterALostSession(t *testing.T) {
	var tries atomic.Int32
	var got string
	c := hostile(t, false, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet { // the session that is asked for
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if tries.Add(1) == 1 {
			// Who refuses and closes with a part unread resets the connection, and
			// the answer may be lost with it: then the upload is uncertain.
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		got = pushed(r)
	})
	if _, err := c.Upload(t.Context(), redfish.Upload{URI: "/update", Raw: true, Image: image(5000)}); err != nil {
		t.Fatal(err)
	}
	if want := "chunked false\napplication/octet-stream " + digest(5000); tries.Load() != 2 || got != want {
		t.Errorf("%d tries, got %s", tries.Load(), got)
	}
}

func TestUploadThatFails(t *testing.T) {
	closed := 0
	short := redfish.Image{Name: "short", Size: 1000, Open: func() (io.ReadCloser, error) {
		return closer{bytes.NewReader(make([]byte, 400)), &closed}, nil
	}}
	missing := redfish.Image{Name: "gone", Size: 10, Open: func() (io.ReadCloser, error) { return nil, errors.New("no such image") }}
	var whole atomic.Int32
	c := hostile(t, false, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/cuts":
			_, _ = io.CopyN(io.Discard, r.Body, 100_000)
			panic(http.ErrAbortHandler)
		case "/refuses":
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":{"@Message.ExtendedInfo":[{"Message":"Not for this machine."}]}}`)
		default:
			if _, err := io.Copy(io.Discard, r.Body); err == nil {
				whole.Add(1)
			}
		}
	})
	for _, test := range []struct {
		name      string
		u         redfish.Upload
		kind      fault.Kind
		says      string
		uncertain bool
	}{
		{"half an image", redfish.Upload{URI: "/update", Raw: true, Image: short}, fault.BadInput, "600 bytes shorter", true},
		{"no image", redfish.Upload{URI: "/update", Image: missing}, "", "no such image", false},
		{"an empty image", redfish.Upload{URI: "/update", Image: redfish.Image{Open: short.Open}}, fault.BadInput, "empty", false},
		{"the BMC goes away in the middle", redfish.Upload{URI: "/cuts", Image: image(8 << 20)}, fault.Unavailable, "post to /cuts", true},
		{"the BMC refuses it", redfish.Upload{URI: "/refuses", Image: image(1000)}, fault.BadInput, "Not for this machine", false},
		{"elsewhere", redfish.Upload{URI: "https://elsewhere/", Image: image(1000)}, fault.Garbage, "not a path", false},
	} {
		_, err := c.Upload(t.Context(), test.u)
		if err == nil || test.kind != "" && !fault.Is(err, test.kind) || !strings.Contains(err.Error(), test.says) || redfish.Uncertain(err) != test.uncertain {
			t.Errorf("%s: %v (kind %s, uncertain %v)", test.name, err, fault.KindOf(err), redfish.Uncertain(err))
		}
	}
	if whole.Load() != 0 || closed == 0 {
		t.Errorf("the BMC took %d halves for whole; closed %d times", whole.Load(), closed)
	}
}

type closer struct {
	io.Reader
	count *int
}

func (c closer) Close() error { *c.count++; return nil }

// Reads go on while an image is on its way, over their own connection, also
// where the BMC speaks HTTP/1.1 alone.
func TestReadsGoOnDuringAnUpload(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	c := hostile(t, false, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			_, _ = io.WriteString(w, `{}`)
			return
		}
		close(arrived)
		<-release
		_, _ = io.Copy(io.Discard, r.Body)
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := c.Upload(ctx, redfish.Upload{URI: "/update", Image: image(4 << 20)})
		done <- err
	}()
	<-arrived
	for range 3 {
		if _, err := c.Fetch(t.Context(), "/x"); err != nil {
			t.Error(err)
		}
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

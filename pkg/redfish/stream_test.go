package redfish_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// sse streams as bmcweb does: over HTTP/1.1 and for the right Accept alone.
func sse(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 || r.Header.Get("Accept") != "text/event-stream" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = io.WriteString(w, "data: after "+r.Header.Get("Last-Event-Id")+"\n\n")
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

func first(t *testing.T, body io.Reader) string {
	t.Helper()
	buf := make([]byte, 64)
	n, err := body.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// Where the reads share one HTTP/2 connection, the stream has its own.
func TestStreamBesideHTTP2(t *testing.T) {
	c := hostile(t, true, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/sse" {
			sse(w, r)
			return
		}
		_, _ = io.WriteString(w, `{}`)
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	body, err := c.Stream(ctx, "/sse", "41")
	if err != nil {
		t.Fatal(err)
	}
	if got := first(t, body); got != "data: after 41\n\n" {
		t.Errorf("streamed %q", got)
	}
	// The limit of a read does not end it, and reads go on.
	if _, err = c.Fetch(t.Context(), "/x"); err != nil || !c.HTTP2() {
		t.Errorf("%v; HTTP/2 %v", err, c.HTTP2())
	}
	if err = body.Close(); err != nil {
		t.Error(err)
	}
	if _, err = body.Read(make([]byte, 1)); err == nil {
		t.Error("a closed stream goes on")
	}
	body, err = c.Stream(ctx, "/sse", "")
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	first(t, body)
	cancel()
	_, _ = io.ReadAll(body) // it returns: the stream ends with its context
}

func TestStreamThatDoesNotOpen(t *testing.T) {
	var tries atomic.Int32
	c := hostile(t, false, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/busy":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/json":
			_, _ = io.WriteString(w, `{}`)
		case "/hangs":
			<-r.Context().Done()
		case "/lost":
			if tries.Add(1) == 1 {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			sse(w, r)
		case "/never", "/redfish/v1/Sessions/1":
			w.WriteHeader(http.StatusUnauthorized)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	for uri, kind := range map[string]fault.Kind{
		"/busy": fault.Unavailable, "/json": fault.Unsupported, "/none": fault.NotFound, "/hangs": fault.Timeout, "/never": fault.Denied, "x": fault.Garbage,
	} {
		begun := time.Now()
		body, err := c.Stream(t.Context(), uri, "")
		if err == nil {
			_ = body.Close()
		}
		if !fault.Is(err, kind) || time.Since(begun) > 10*time.Second {
			t.Errorf("%s: %v after %s; want %s", uri, err, time.Since(begun), kind)
		}
	}
	body, err := c.Stream(t.Context(), "/lost", "")
	if err != nil {
		t.Fatal(err)
	}
	if got := first(t, body); !strings.HasPrefix(got, "data:") || tries.Load() != 2 {
		t.Errorf("%q after %d tries; a lost session is opened anew", got, tries.Load())
	}
	_ = body.Close()
}

// A changed certificate is noticed by the stream as by every read.
func TestStreamVerifiesTheBMC(t *testing.T) {
	address, _ := serveTLS(t, http.HandlerFunc(sse))
	c := dial(t, address, redfish.PinOf(mustParse(t, certificate(t))))
	if _, err := c.Stream(t.Context(), "/sse", ""); !fault.Is(err, fault.Untrusted) {
		t.Errorf("got %v; want untrusted", err)
	}
}

package bmcsim

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/auth"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/events"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
)

// streamWrite bounds how long a listener may take to accept one event.
const streamWrite = 30 * time.Second

// isStream reports whether a request is for the event stream. bmcweb has it
// over HTTP/1.1 alone and only for clients that say what they accept; for all
// others there is no such resource.
func isStream(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.TrimSuffix(r.URL.Path, "/") == streamURI &&
		r.ProtoMajor == 1 && strings.Contains(r.Header.Get("Accept"), "text/event-stream")
}

// stream serves events until the client or the simulator ends. Refusals are
// ordinary replies.
func (b *BMC) stream(w http.ResponseWriter, r *http.Request, q *request) int {
	s, refusal := b.openStream(q)
	if refusal != nil {
		return refusal.write(w, r.Method)
	}
	defer b.hub.Close(s)
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		rep := internalError()
		return rep.write(w, r.Method)
	}
	// The client sends nothing more: a read ends when it goes away.
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, buffered)
	}()
	defer func() {
		_ = conn.Close()
		<-gone
	}()
	_ = conn.SetDeadline(time.Time{})
	if send(conn, buffered.Writer, []byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")) != nil {
		return http.StatusOK
	}
	for {
		select {
		case <-r.Context().Done():
			return http.StatusOK
		case <-gone:
			return http.StatusOK
		case e := <-s.Events():
			if send(conn, buffered.Writer, e.Text()) != nil {
				return http.StatusOK
			}
		}
	}
}

func send(conn net.Conn, w *bufio.Writer, text []byte) error {
	_ = conn.SetWriteDeadline(time.Now().Add(streamWrite))
	if _, err := w.Write(text); err != nil {
		return err
	}
	return w.Flush()
}

// openStream checks who asks and for what.
func (b *BMC) openStream(q *request) (*events.Stream, *reply) {
	b.mu.Lock()
	defer b.mu.Unlock()
	q.now = b.cfg.Now()
	b.identify(q)
	if q.user == "" {
		r := unauthorized(q.header, b.state.Auth.BasicAuth)
		return nil, &r
	}
	refuse := func(r reply) (*events.Stream, *reply) {
		r.set("Allow", "GET")
		return nil, &r
	}
	if !q.role.May(auth.ConfigureComponents) {
		return refuse(reply{status: http.StatusForbidden})
	}
	filter, err := events.ParseFilter(q.args["query"])
	if err != nil {
		return refuse(reply{status: http.StatusBadRequest})
	}
	id, err := events.NewID(b.cfg.Rand)
	if err != nil {
		return refuse(internalError())
	}
	s, err := b.hub.Open(id, filter, q.header.Get("Last-Event-Id"), message.New("EventBufferExceeded"))
	if err != nil {
		return refuse(failure(http.StatusServiceUnavailable, message.New("EventSubscriptionLimitExceeded")))
	}
	return s, nil
}

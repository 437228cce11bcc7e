package events

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// ErrTooMany is the answer to one stream or subscription more than allowed.
var ErrTooMany = errors.New("there are too many subscriptions")

// Stream is a client that listens to server-sent events.
type Stream struct {
	ID       string
	prefixes []string
	ids      []string // full message ids of the filter
	queue    chan Event
}

// Filter is what a stream wants to hear of; empty: everything.
type Filter struct {
	Prefixes   []string
	MessageIDs []string // in full, as in an event
}

// Open begins a stream. With the id of the last event its client saw, what came
// later is sent again; if that is forgotten, a message says so.
func (h *Hub) Open(id string, f Filter, lastSeen string, exceeded map[string]any) (*Stream, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.streams) >= MaxStreams || len(h.streams)+len(h.lines) >= MaxSubscriptions {
		return nil, ErrTooMany
	}
	s := &Stream{ID: id, prefixes: f.Prefixes, ids: f.MessageIDs, queue: make(chan Event, 2*maxMemory)}
	h.streams[id] = s
	if lastSeen == "" {
		return s, nil
	}
	i := slices.IndexFunc(h.memory, func(e Event) bool { return strconv.Itoa(e.ID) == lastSeen })
	if i < 0 {
		h.last++
		s.offer(Event{ID: h.last, Body: exceeded})
		return s, nil
	}
	for _, e := range h.memory[i+1:] {
		if s.wants(e) {
			s.offer(e)
		}
	}
	return s, nil
}

// Close ends a stream.
func (h *Hub) Close(s *Stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.streams, s.ID)
}

// Streams are the ids of the open ones.
func (h *Hub) Streams() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	ids := make([]string, 0, len(h.streams))
	for id := range h.streams {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// Events are to be sent in their order.
func (s *Stream) Events() <-chan Event { return s.queue }

// Text is an event in the form of a stream.
func (e Event) Text() []byte {
	var buf bytes.Buffer
	fmt.Fprintf(&buf, "id: %d\n", e.ID)
	for line := range bytes.Lines(e.text("")) {
		fmt.Fprintf(&buf, "data: %s\n", bytes.TrimSuffix(line, []byte("\n")))
	}
	buf.WriteString("\n")
	return buf.Bytes()
}

// offer drops the event if the client is too slow.
func (s *Stream) offer(e Event) {
	select {
	case s.queue <- e:
	default:
	}
}

func (s *Stream) wants(e Event) bool {
	if !wants(s.prefixes, nil, e) {
		return false
	}
	if len(s.ids) == 0 {
		return true
	}
	list, isEvent := e.Body["Events"].([]map[string]any)
	if !isEvent {
		return false
	}
	id, _ := list[0]["MessageId"].(string)
	return slices.Contains(s.ids, id)
}

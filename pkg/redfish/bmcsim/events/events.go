// Package events is the event service of a BMC as OpenBMC has it: what is
// told, to whom it is delivered and how often that is tried, and the streams
// of server-sent events with their memory.
//
// A Hub takes events from the BMC, which decides what is worth one, and hands
// them on from goroutines of its own. It knows subscriptions by value and says
// when one has failed too often; the BMC keeps them.
package events

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"
)

// Limits of OpenBMC.
const (
	MaxSubscriptions = 20 // streams included
	MaxStreams       = 10
	maxMemory        = 200 // events a stream can ask for again
	maxWaiting       = 200 // events that wait for one listener
)

// What happens to a subscription whose listener can't be reached.
const (
	Terminate = "TerminateAfterRetries"
	Suspend   = "SuspendRetries"
	Forever   = "RetryForever"
)

// Subscription is a listener that events are posted to.
type Subscription struct {
	ID          string
	Destination string
	Context     string
	Policy      string
	Prefixes    []string            // of message registries; none: all
	MessageIDs  []string            // none: all
	Headers     []map[string]string // sent along; they may hold secrets
	Verify      bool                // the listener's certificate
	Suspended   bool
}

// Event is something to tell. Body is the whole "Event" resource or, for a
// lost memory, a bare message.
type Event struct {
	ID     int
	Prefix string // of the message's registry, "" if it goes to everybody
	Key    string // the message's id without registry and version
	Named  bool   // each listener gets its own context in it
	Body   map[string]any
}

// wants reports whether a subscription is about the event.
func (s Subscription) wants(e Event) bool {
	return !s.Suspended && wants(s.Prefixes, s.MessageIDs, e)
}

func wants(prefixes, ids []string, e Event) bool {
	if e.Prefix == "" {
		return true
	}
	return (len(prefixes) == 0 || slices.Contains(prefixes, e.Prefix)) && (len(ids) == 0 || slices.Contains(ids, e.Key))
}

// Test is the event that a client made up. It goes to every listener, and
// holds only what the client said.
func Test(id int, said map[string]any) Event {
	inner := map[string]any{"MemberId": "0"}
	maps.Copy(inner, said)
	delete(inner, "EventId")
	if uri, given := inner["OriginOfCondition"]; given {
		inner["OriginOfCondition"] = map[string]any{"@odata.id": uri}
	}
	return Event{ID: id, Body: body(id2text(id), inner)}
}

// Task is a change of a task's state. Its ids are numbers and its origin a
// plain text, unlike in any other event.
func Task(id int, uri string, message map[string]any, at string) Event {
	inner := map[string]any{"EventId": id, "EventTimestamp": at, "MemberId": "0", "OriginOfCondition": uri}
	maps.Copy(inner, message)
	text, _ := message["MessageId"].(string)
	return Event{ID: id, Prefix: "TaskEvent", Key: text[strings.LastIndexByte(text, '.')+1:], Body: body(id, inner)}
}

// Log is a new entry of the event log. Each listener gets its own context.
func Log(id int, entry map[string]any) Event {
	inner := map[string]any{"EventId": id2text(id - 1)}
	maps.Copy(inner, entry)
	text, _ := entry["MessageId"].(string)
	prefix, _, _ := strings.Cut(text, ".")
	return Event{ID: id, Prefix: prefix, Key: text[strings.LastIndexByte(text, '.')+1:], Named: true, Body: body(id2text(id), inner)}
}

func body(id any, inner map[string]any) map[string]any {
	return map[string]any{
		"@odata.type": "#Event.v1_4_0.Event", "Id": id, "Name": "Event Log", "Events": []map[string]any{inner},
	}
}

func id2text(id int) string {
	text, _ := json.Marshal(id) // a number can be encoded
	return string(text)
}

// text is an event as it is sent, two spaces deep. Log events carry the
// context of their listener.
func (e Event) text(context string) []byte {
	b := e.Body
	if list, isEvent := b["Events"].([]map[string]any); isEvent && e.Named {
		inner := map[string]any{"Context": context}
		maps.Copy(inner, list[0])
		b = body(b["Id"], inner)
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(b); err != nil {
		return nil // only values that can be encoded are ever put into an event
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
}

// Retries is how the delivery to a listener that fails goes on.
type Retries struct {
	Attempts int // after the first
	Interval time.Duration
}

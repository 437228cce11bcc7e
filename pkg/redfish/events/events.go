// Package events hears what a BMC tells by itself: over its event stream, or by
// a subscription to a receiver of ours, or, where neither works, not at all,
// and then says at intervals that it is time to read. It returns to a better
// way by itself.
//
// Events are hints, never facts: they get lost, arrive twice and late, and are
// sent by whoever knows the secret. What matters is read back from the BMC.
// A Notice with Gap says that this is due because something was missed.
//
// What BMCs send differs from the specification and from each other (seen on
// bmcweb): ids are strings or numbers, the origin is an object or a bare
// string, the severity has two names, the context stands in different places.
package events

import (
	"encoding/json"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// Event is one event of a BMC. Every field may be empty.
type Event struct {
	ID        string // EventId
	Type      string // EventType, deprecated and still the only one on some
	MessageID string // "OpenBMC.0.5.PowerSupplyRemoved"
	Severity  string // "OK", "Warning", "Critical"
	Text      string
	Args      []string
	Origin    redfish.Link // the resource that it is about
	Time      string       // as the BMC's clock has it, which may stand at 1970
	Context   string
}

// Way is how events arrive.
type Way string

// The ways, best first.
const (
	ByStream       Way = "stream"
	BySubscription Way = "subscription"
	ByPolling      Way = "polling"
)

// Notice is what a listener is told.
type Notice struct {
	Way    Way
	Events []Event
	// Gap says that events were or may have been missed: read again what
	// matters. It comes once when listening begins, and at intervals by polling.
	Gap bool
	Why string // of the gap, or of the polling
}

// maxEvents bounds the events of one message.
const maxEvents = 256

// wireEvent is an event as BMCs write it (DSP2046, Event).
type wireEvent struct {
	ID              redfish.Text `json:"EventId"`
	Type            redfish.Text `json:"EventType"`
	MessageID       redfish.Text `json:"MessageId"`
	Severity        redfish.Text
	MessageSeverity redfish.Text
	Message         redfish.Text
	Args            []redfish.Text `json:"MessageArgs"`
	Origin          redfish.Link   `json:"OriginOfCondition"`
	Time            redfish.Text   `json:"EventTimestamp"`
	Context         redfish.Text
}

func (w wireEvent) event() Event {
	e := Event{
		ID: string(w.ID), Type: string(w.Type), MessageID: string(w.MessageID), Severity: string(w.MessageSeverity),
		Text: string(w.Message), Origin: w.Origin, Time: string(w.Time), Context: string(w.Context),
	}
	if e.Severity == "" {
		e.Severity = string(w.Severity)
	}
	for _, a := range w.Args {
		e.Args = append(e.Args, string(a))
	}
	return e
}

// decode reads one message. A bare Message that says EventBufferExceeded stands
// for events that the BMC no longer has. What is no event at all, a metric
// report for example, is nothing.
func decode(body []byte) (events []Event, lost bool, err error) {
	var doc struct {
		Events    []json.RawMessage
		Context   redfish.Text
		MessageID redfish.Text `json:"MessageId"`
	}
	if err := redfish.Decode(body, &doc); err != nil {
		return nil, false, err
	}
	lost = exceeded(string(doc.MessageID)) || len(doc.Events) > maxEvents
	for _, raw := range doc.Events[:min(len(doc.Events), maxEvents)] {
		var w wireEvent
		if redfish.Decode(raw, &w) != nil {
			continue
		}
		e := w.event()
		if e.Context == "" {
			e.Context = string(doc.Context)
		}
		if exceeded(e.MessageID) {
			lost = true
			continue
		}
		events = append(events, e)
	}
	return events, lost, nil
}

func exceeded(messageID string) bool { return strings.HasSuffix(messageID, ".EventBufferExceeded") }

// Package logs is what a BMC writes down: the log of events, the journal of its
// own system, the codes of the host's boot, and dumps. It is pure: the time is
// told, and entries are shown as Redfish has them without knowing of HTTP.
package logs

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/clock"
)

const maxEntries = 512 // older ones are overwritten

// Style is which of OpenBMC's two event logs it is.
type Style bool

// The log in a file has the oldest first and can't be changed; its ids are the
// time in seconds, with _N for the Nth more in the same second. The one on D-Bus
// has the newest first, ids of 32 bits without order, and entries that can be
// resolved and deleted.
const (
	File Style = false
	DBus Style = true
)

// Entry is a line of the event log.
type Entry struct {
	ID, MessageID, Message, Severity string
	Args                             []string
	At, Changed                      time.Time
	Resolved                         bool
}

// Log is the event log, oldest first. Copies share nothing that changes.
type Log []Entry

// Add writes an entry at e.At, whose MessageID is a key of OpenBMC's registry, and
// gives it its ID. The oldest one makes room.
func (l *Log) Add(e Entry, style Style) Entry {
	key := e.MessageID
	e.ID, e.MessageID, e.Changed = l.fileID(e.At), "OpenBMC.0.5."+key, e.At
	if style == DBus {
		h := fnv.New64a()
		_, _ = h.Write([]byte(e.ID + key))
		e.ID = strconv.FormatUint(4278190080+h.Sum64()%16777215, 10)
		e.MessageID = "xyz.openbmc_project.State." + key
	}
	if len(*l) >= maxEntries {
		*l = slices.Clone((*l)[1:])
	}
	*l = append(*l, e)
	return e
}

func (l *Log) fileID(at time.Time) string {
	id, same := strconv.FormatInt(at.Unix(), 10), 0
	for _, e := range *l {
		if e.At.Unix() == at.Unix() {
			same++
		}
	}
	if same > 0 {
		return fmt.Sprintf("%s_%d", id, same)
	}
	return id
}

// Index is where the entry with an id is, negative if there is none.
func (l Log) Index(id string) int {
	return slices.IndexFunc(l, func(e Entry) bool { return e.ID == id })
}

// Resolve marks the entry at i as resolved, or as not.
func (l *Log) Resolve(i int, resolved bool, now time.Time) {
	*l = slices.Clone(*l)
	(*l)[i].Resolved, (*l)[i].Changed = resolved, now
}

// Delete takes the entry at i out.
func (l *Log) Delete(i int) { *l = slices.Delete(slices.Clone(*l), i, i+1) }

// Shown are the entries in the order in which the log shows them.
func (l Log) Shown(style Style) []Entry {
	shown := slices.Clone(l)
	if style == DBus {
		slices.Reverse(shown)
	}
	return shown
}

// Body is the entry as a member of the collection at uri.
func (e Entry) Body(uri string, style Style, offset clock.Offset) map[string]any {
	o := map[string]any{
		"@odata.id": uri + "/" + e.ID, "@odata.type": "#LogEntry.v1_9_0.LogEntry",
		"EntryType": "Event", "Id": e.ID, "Name": "System Event Log Entry", "Severity": e.Severity,
	}
	if style == DBus {
		o["AdditionalDataURI"] = uri + "/" + e.ID + "/attachment"
		o["Created"], o["Modified"] = offset.Stamp(e.At, clock.Milliseconds), offset.Stamp(e.Changed, clock.Milliseconds)
		o["Message"], o["Resolved"] = e.MessageID, e.Resolved
		return o
	}
	o["Created"], o["Message"] = offset.Stamp(e.At, clock.Seconds), e.Message
	o["MessageArgs"], o["MessageId"] = e.args(), e.MessageID
	return o
}

// Event is the entry as listeners hear of it.
func (e Entry) Event(offset clock.Offset) map[string]any {
	return map[string]any{
		"EventTimestamp": offset.Stamp(e.At, clock.Seconds), "Message": e.Message, "MessageArgs": e.args(),
		"MessageId": e.MessageID, "Severity": e.Severity,
	}
}

// args are never null in JSON.
func (e Entry) args() []string { return append([]string{}, e.Args...) }

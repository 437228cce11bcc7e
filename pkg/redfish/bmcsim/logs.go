package bmcsim

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/auth"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/events"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/input"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
)

const (
	systemLogsURI = systemURI + "/LogServices"
	eventLogURI   = systemLogsURI + "/EventLog"
	eventsURI     = eventLogURI + "/Entries"
	managerLogs   = managerURI + "/LogServices"
	journalURI    = managerLogs + "/Journal"

	maxLog = 512 // older entries are overwritten
)

// logEntry is a line of the event log. Its ID is the time in seconds, with _N
// for the Nth more in the same second, as bmcweb's file-based log has it.
type logEntry struct {
	ID, MessageID, Message, Severity string
	Args                             []string
	At, Changed                      time.Time
	Resolved                         bool
}

// addLog writes an entry and tells listeners of it, as the file-based log does.
func (b *BMC) addLog(at time.Time, key, text, severity string, args ...string) {
	s := b.state
	e := logEntry{ID: s.logID(at), MessageID: "OpenBMC.0.5." + key, Message: text, Severity: severity, Args: args, At: at, Changed: at}
	if b.cfg.DBusLog {
		// Numbers of 32 bits that have no order.
		e.ID = strconv.FormatUint(4278190080+hash64(e.ID+key)%16777215, 10)
		e.MessageID = "xyz.openbmc_project.State." + key
	}
	if len(s.Log) >= maxLog {
		s.Log = slices.Clone(s.Log[1:])
	}
	s.Log = append(s.Log, e)
	if !b.cfg.DBusLog {
		b.hub.Tell(func(id int) events.Event { return events.Log(id, b.logEvent(e)) })
	}
}

func (s *State) logID(at time.Time) string {
	id, same := strconv.FormatInt(at.Unix(), 10), 0
	for _, e := range s.Log {
		if e.At.Unix() == at.Unix() {
			same++
		}
	}
	if same > 0 {
		return fmt.Sprintf("%s_%d", id, same)
	}
	return id
}

func (b *BMC) logEvent(e logEntry) obj {
	return obj{
		"EventTimestamp": b.stamp(e.At, seconds), "Message": e.Message, "MessageArgs": orEmpty(e.Args),
		"MessageId": e.MessageID, "Severity": e.Severity,
	}
}

func logRoutes(dbus bool) []route {
	const system, manager = "/redfish/v1/Systems/{system}/LogServices", "/redfish/v1/Managers/{manager}/LogServices"
	entry := gets(getEvent)
	if dbus {
		entry[http.MethodPatch] = deed{auth.ConfigureManager, patchEvent}
		entry[http.MethodDelete] = deed{auth.ConfigureManager, deleteEvent}
	}
	list := []route{
		{path: system, do: gets(getSystemLogs)},
		{path: system + "/EventLog", do: gets(getEventLog)},
		{path: system + "/EventLog/Entries", do: gets(getEvents)},
		{path: system + "/EventLog/Entries/{entry}", do: entry},
		{path: system + "/EventLog/Actions/LogService.ClearLog", do: posts(auth.ConfigureComponents, clearEvents)},
		{path: manager, do: gets(getManagerLogs)},
		{path: manager + "/Journal", do: gets(getJournal)},
		{path: manager + "/Journal/Entries", do: gets(getJournalEntries)},
		{path: manager + "/Journal/Entries/{entry}", do: gets(getJournalEntry)},
	}
	if dbus {
		list = append(list, route{path: system + "/EventLog/Entries/{entry}/attachment", do: gets(getAttachment)})
	}
	return list
}

func getSystemLogs(*BMC, *request) reply {
	return collection(systemLogsURI, "LogServiceCollection", "System Log Services Collection", []string{"EventLog", "Dump", "HostLogger", "PostCodes"},
		obj{"Description": "Collection of LogServices for this Computer System"})
}

func getEventLog(b *BMC, q *request) reply {
	return ok(obj{
		"@odata.id": eventLogURI, "@odata.type": "#LogService.v1_2_0.LogService",
		"Actions":  obj{"#LogService.ClearLog": obj{"target": eventLogURI + "/Actions/LogService.ClearLog"}},
		"DateTime": b.stamp(q.now, seconds), "DateTimeLocalOffset": "+00:00",
		"Description": "System Event Log Service", "Entries": link(eventsURI),
		"Id": "EventLog", "Name": "Event Log Service", "OverWritePolicy": "WrapsWhenFull",
	})
}

// getEvents shows whole entries, not links: bmcweb inlines the members of logs.
// The D-Bus log has the newest first.
func getEvents(b *BMC, _ *request) reply {
	members := make([]obj, len(b.state.Log))
	for i, e := range b.state.Log {
		if b.cfg.DBusLog {
			i = len(members) - 1 - i
		}
		members[i] = b.eventBody(e)
	}
	return collectionOf(eventsURI, "LogEntryCollection", "System Event Log Entries", members,
		obj{"Description": "Collection of System Event Log Entries"})
}

func (b *BMC) eventBody(e logEntry) obj {
	o := obj{
		"@odata.id": eventsURI + "/" + e.ID, "@odata.type": "#LogEntry.v1_9_0.LogEntry",
		"EntryType": "Event", "Id": e.ID, "Name": "System Event Log Entry", "Severity": e.Severity,
	}
	if b.cfg.DBusLog {
		o["AdditionalDataURI"] = eventsURI + "/" + e.ID + "/attachment"
		o["Created"], o["Modified"] = b.stamp(e.At, milliseconds), b.stamp(e.Changed, milliseconds)
		o["Message"], o["Resolved"] = e.MessageID, e.Resolved
		return o
	}
	o["Created"], o["Message"] = b.stamp(e.At, seconds), e.Message
	o["MessageArgs"], o["MessageId"] = orEmpty(e.Args), e.MessageID
	return o
}

// logIndex is where the asked-for entry is, or how bmcweb says that it is not.
func (b *BMC) logIndex(q *request) (int, *reply) {
	i := slices.IndexFunc(b.state.Log, func(e logEntry) bool { return e.ID == q.args["entry"] })
	if i >= 0 {
		return i, nil
	}
	kind := "LogEntry"
	if b.cfg.DBusLog {
		kind = "EventLogEntry"
	}
	r := notFound(kind, q.args["entry"])
	return i, &r
}

func getEvent(b *BMC, q *request) reply {
	i, missing := b.logIndex(q)
	if missing != nil {
		return *missing
	}
	return ok(b.eventBody(b.state.Log[i]))
}

func patchEvent(b *BMC, q *request) reply {
	i, missing := b.logIndex(q)
	if missing != nil {
		return *missing
	}
	v, r, valid := q.patch(input.Field{Path: "Resolved", Kind: input.Bool, Need: true})
	if !valid {
		return r
	}
	b.state.Log = slices.Clone(b.state.Log)
	b.state.Log[i].Resolved, _ = v.Bool("Resolved")
	b.state.Log[i].Changed, q.dirty = q.now, true
	return noContent()
}

func deleteEvent(b *BMC, q *request) reply {
	i, missing := b.logIndex(q)
	if missing != nil {
		return *missing
	}
	b.state.Log, q.dirty = slices.Delete(slices.Clone(b.state.Log), i, i+1), true
	return success()
}

// getAttachment always fails: no entry has a file behind it.
func getAttachment(*BMC, *request) reply { return reply{status: http.StatusBadRequest} }

// Log writes an entry into the event log by hand, with a key of OpenBMC's
// message registry ("PowerSupplyFanFailed") and what it is about.
func (b *BMC) Log(key, text string, args ...string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.addLog(b.cfg.Now(), key, text, message.Warning, args...)
	return b.state.save(b.cfg.StateFile)
}

func clearEvents(b *BMC, q *request) reply {
	if _, r, valid := q.action(); !valid {
		return r
	}
	b.state.Log, q.dirty = nil, true
	if b.cfg.DBusLog { // what is left is that it was cleared
		b.addLog(q.now, "Cleared", "The log was cleared", message.OK)
	}
	return success()
}

func getManagerLogs(*BMC, *request) reply {
	return collection(managerLogs, "LogServiceCollection", "Open BMC Log Services Collection", []string{"Journal", "Dump", "FaultLog"},
		obj{"Description": "Collection of LogServices for this Manager"})
}

func getJournal(b *BMC, q *request) reply {
	return ok(obj{
		"@odata.id": journalURI, "@odata.type": "#LogService.v1_2_0.LogService",
		"DateTime": b.stamp(q.now, seconds), "DateTimeLocalOffset": "+00:00",
		"Description": "BMC Journal Log Service", "Entries": link(journalURI + "/Entries"),
		"Id": "Journal", "Name": "Open BMC Journal Log Service", "OverWritePolicy": "WrapsWhenFull",
	})
}

// journal is what the BMC's own system has logged since its start. An id is a
// base64 cursor that may end in '=': clients must escape it.
func (b *BMC) journal() []obj {
	lines := []string{
		"systemd: Started Phosphor Host State Manager.", "bmcweb: bmcweb server is running, local endpoint ::",
		"systemd: Started Phosphor Inventory Manager.", "systemd: Reached target Multi-User System.",
		"systemd-timesyncd: Contacted time server.", "phosphor-fan-control: Fans under control.",
	}
	entries := make([]obj, len(lines))
	for i, line := range lines {
		cursor := fmt.Sprintf("s=%s;i=%d;t=%x", b.state.ManagerUUID, i+1, b.start.UnixMicro())
		id := base64.StdEncoding.EncodeToString([]byte(cursor))
		entries[i] = obj{
			"@odata.id": journalURI + "/Entries/" + id, "@odata.type": "#LogEntry.v1_9_0.LogEntry",
			"Created": b.stamp(b.start, microseconds), "EntryType": "Oem", "Id": id, "Message": line,
			"Name": "BMC Journal Entry", "OemRecordFormat": "BMC Journal Entry", "Severity": message.OK,
		}
	}
	return entries
}

func getJournalEntries(b *BMC, _ *request) reply {
	return collectionOf(journalURI+"/Entries", "LogEntryCollection", "Open BMC Journal Entries", b.journal(),
		obj{"Description": "Collection of BMC Journal Entries"})
}

func getJournalEntry(b *BMC, q *request) reply {
	for _, e := range b.journal() {
		if e["Id"] == q.args["entry"] {
			return reply{status: http.StatusOK, body: e}
		}
	}
	return notFound("LogEntry", q.args["entry"])
}

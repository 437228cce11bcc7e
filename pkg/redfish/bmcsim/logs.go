package bmcsim

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
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
	At                               time.Time
}

func (s *State) addLog(at time.Time, key, text, severity string) {
	id := strconv.FormatInt(at.Unix(), 10)
	same := 0
	for _, e := range s.Log {
		if e.At.Unix() == at.Unix() {
			same++
		}
	}
	if same > 0 {
		id = fmt.Sprintf("%s_%d", id, same)
	}
	if len(s.Log) >= maxLog {
		s.Log = slices.Clone(s.Log[1:])
	}
	s.Log = append(s.Log, logEntry{ID: id, MessageID: "OpenBMC.0.5." + key, Message: text, Severity: severity, At: at})
}

func logRoutes() []route {
	const system, manager = "/redfish/v1/Systems/{system}/LogServices", "/redfish/v1/Managers/{manager}/LogServices"
	return []route{
		{path: system, do: gets(getSystemLogs)},
		{path: system + "/EventLog", do: gets(getEventLog)},
		{path: system + "/EventLog/Entries", do: gets(getEvents)},
		{path: system + "/EventLog/Entries/{entry}", do: gets(getEvent)},
		{path: system + "/EventLog/Actions/LogService.ClearLog", do: posts(configureComponents, clearEvents)},
		{path: manager, do: gets(getManagerLogs)},
		{path: manager + "/Journal", do: gets(getJournal)},
		{path: manager + "/Journal/Entries", do: gets(getJournalEntries)},
		{path: manager + "/Journal/Entries/{entry}", do: gets(getJournalEntry)},
	}
}

func getSystemLogs(*BMC, *request) reply {
	return collection(systemLogsURI, "LogServiceCollection", "System Log Services Collection", []string{"EventLog"},
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
func getEvents(b *BMC, _ *request) reply {
	members := make([]obj, len(b.state.Log))
	for i, e := range b.state.Log {
		members[i] = b.eventBody(e)
	}
	return collectionOf(eventsURI, "LogEntryCollection", "System Event Log Entries", members,
		obj{"Description": "Collection of System Event Log Entries"})
}

func (b *BMC) eventBody(e logEntry) obj {
	return obj{
		"@odata.id": eventsURI + "/" + e.ID, "@odata.type": "#LogEntry.v1_9_0.LogEntry",
		"Created": b.stamp(e.At, seconds), "EntryType": "Event", "Id": e.ID, "Message": e.Message,
		"MessageArgs": []string{}, "MessageId": e.MessageID, "Name": "System Event Log Entry", "Severity": e.Severity,
	}
}

func getEvent(b *BMC, q *request) reply {
	i := slices.IndexFunc(b.state.Log, func(e logEntry) bool { return e.ID == q.args["entry"] })
	if i < 0 {
		return notFound("LogEntry", q.args["entry"])
	}
	return ok(b.eventBody(b.state.Log[i]))
}

func clearEvents(b *BMC, q *request) reply {
	if _, r, valid := q.action(); !valid {
		return r
	}
	b.state.Log, q.dirty = nil, true
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
	lines := []string{"systemd: Started Phosphor Host State Manager.", "bmcweb: bmcweb server is running, local endpoint ::"}
	entries := make([]obj, len(lines))
	for i, line := range lines {
		cursor := fmt.Sprintf("s=%s;i=%d;t=%x", b.state.ManagerUUID, i+1, b.start.UnixMicro())
		id := base64.StdEncoding.EncodeToString([]byte(cursor))
		entries[i] = obj{
			"@odata.id": journalURI + "/Entries/" + id, "@odata.type": "#LogEntry.v1_9_0.LogEntry",
			"Created": b.stamp(b.start, microseconds), "EntryType": "Oem", "Id": id, "Message": line,
			"Name": "BMC Journal Entry", "OemRecordFormat": "BMC Journal Entry", "Severity": severityOK,
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

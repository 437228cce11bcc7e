package bmcsim

import (
	"net/http"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/auth"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/clock"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/events"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/hardware"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/input"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/logs"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
)

const (
	systemLogsURI = systemURI + "/LogServices"
	eventLogURI   = systemLogsURI + "/EventLog"
	eventsURI     = eventLogURI + "/Entries"
	managerLogs   = managerURI + "/LogServices"
	journalURI    = managerLogs + "/Journal"
)

// addLog writes an entry and tells listeners of it, as the file-based log does.
func (b *BMC) addLog(e logs.Entry) {
	style := logs.Style(b.cfg.DBusLog)
	e = b.state.Log.Add(e, style)
	if style == logs.File {
		b.hub.Tell(func(id int) events.Event { return events.Log(id, e.Event(b.state.Clock)) })
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
		"DateTime": b.stamp(q.now, clock.Seconds), "DateTimeLocalOffset": "+00:00",
		"Description": "System Event Log Service", "Entries": hardware.Link(eventsURI),
		"Id": "EventLog", "Name": "Event Log Service", "OverWritePolicy": "WrapsWhenFull",
	})
}

// getEvents shows whole entries, not links: bmcweb inlines the members of logs.
func getEvents(b *BMC, _ *request) reply {
	shown := b.state.Log.Shown(logs.Style(b.cfg.DBusLog))
	members := make([]obj, len(shown))
	for i, e := range shown {
		members[i] = b.eventBody(e)
	}
	return collectionOf(eventsURI, "LogEntryCollection", "System Event Log Entries", members,
		obj{"Description": "Collection of System Event Log Entries"})
}

func (b *BMC) eventBody(e logs.Entry) obj {
	return e.Body(eventsURI, logs.Style(b.cfg.DBusLog), b.state.Clock)
}

// logIndex is where the asked-for entry is, or how bmcweb says that it is not.
func (b *BMC) logIndex(q *request) (int, *reply) {
	i := b.state.Log.Index(q.args["entry"])
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
	resolved, _ := v.Bool("Resolved")
	b.state.Log.Resolve(i, resolved, q.now)
	q.dirty = true
	return noContent()
}

func deleteEvent(b *BMC, q *request) reply {
	i, missing := b.logIndex(q)
	if missing != nil {
		return *missing
	}
	b.state.Log.Delete(i)
	q.dirty = true
	return success()
}

// getAttachment always fails: no entry has a file behind it.
func getAttachment(*BMC, *request) reply { return reply{status: http.StatusBadRequest} }

// Log writes an entry into the event log by hand, with a key of OpenBMC's
// message registry ("PowerSupplyFanFailed") and what it is about.
func (b *BMC) Log(key, text string, args ...string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.addLog(logs.Entry{At: b.cfg.Now(), MessageID: key, Message: text, Severity: message.Warning, Args: args})
	return b.state.save(b.cfg.StateFile)
}

func clearEvents(b *BMC, q *request) reply {
	if _, r, valid := q.action(); !valid {
		return r
	}
	b.state.Log, q.dirty = nil, true
	if b.cfg.DBusLog { // what is left is that it was cleared
		b.addLog(logs.Entry{At: q.now, MessageID: "Cleared", Message: "The log was cleared", Severity: message.OK})
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
		"DateTime": b.stamp(q.now, clock.Seconds), "DateTimeLocalOffset": "+00:00",
		"Description": "BMC Journal Log Service", "Entries": hardware.Link(journalURI + "/Entries"),
		"Id": "Journal", "Name": "Open BMC Journal Log Service", "OverWritePolicy": "WrapsWhenFull",
	})
}

func (b *BMC) journal() []obj {
	return logs.Journal(journalURI+"/Entries", b.state.ManagerUUID, b.start, b.state.Clock)
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

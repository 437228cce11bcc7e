package bmcsim

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/auth"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/input"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
)

const (
	dumpURI       = managerLogs + "/Dump"
	systemDumpURI = systemLogsURI + "/Dump"
	dumpSize      = 20480
)

// dump is a collection of the BMC's diagnostic data.
type dump struct {
	ID, Origin string
	At         time.Time
}

func dumpRoutes() []route {
	const manager, system = "/redfish/v1/Managers/{manager}/LogServices", "/redfish/v1/Systems/{system}/LogServices"
	return []route{
		{path: manager + "/Dump", do: gets(dumpService(dumpURI, "BMC"))},
		{path: manager + "/Dump/Entries", do: gets(getDumps)},
		{path: manager + "/Dump/Entries/{entry}", do: map[string]deed{
			http.MethodGet:    {auth.Login, getDump},
			http.MethodDelete: {auth.ConfigureManager, deleteDump},
		}},
		{path: manager + "/Dump/Entries/{entry}/attachment", do: gets(getDumpFile)},
		{path: manager + "/Dump/Actions/LogService.CollectDiagnosticData", do: posts(auth.ConfigureManager, collectDump)},
		{path: manager + "/Dump/Actions/LogService.ClearLog", do: posts(auth.ConfigureManager, clearDumps)},
		{path: manager + "/FaultLog", do: gets(getFaultLog)},
		{path: manager + "/FaultLog/Entries", do: gets(noEntries(managerLogs+"/FaultLog", "FaultLog Dump"))},
		{path: system + "/Dump", do: gets(dumpService(systemDumpURI, "System"))},
		{path: system + "/Dump/Entries", do: gets(noEntries(systemDumpURI, "System Dump"))},
	}
}

func dumpService(uri, owner string) handler {
	return func(b *BMC, q *request) reply {
		action := func(name string) obj { return obj{"target": uri + "/Actions/LogService." + name} }
		return ok(obj{
			"@odata.id": uri, "@odata.type": "#LogService.v1_2_0.LogService",
			"Actions": obj{
				"#LogService.ClearLog":              action("ClearLog"),
				"#LogService.CollectDiagnosticData": action("CollectDiagnosticData"),
			},
			"DateTime": b.stamp(q.now, seconds), "DateTimeLocalOffset": "+00:00", "Description": owner + " Dump LogService",
			"Entries": link(uri + "/Entries"), "Id": "Dump", "Name": "Dump LogService", "OverWritePolicy": "WrapsWhenFull",
		})
	}
}

func getFaultLog(b *BMC, q *request) reply {
	const uri = managerLogs + "/FaultLog"
	return ok(obj{
		"@odata.id": uri, "@odata.type": "#LogService.v1_2_0.LogService",
		"Actions":  obj{"#LogService.ClearLog": obj{"target": uri + "/Actions/LogService.ClearLog"}},
		"DateTime": b.stamp(q.now, seconds), "DateTimeLocalOffset": "+00:00", "Description": "FaultLog Dump LogService",
		"Entries": link(uri + "/Entries"), "Id": "FaultLog", "Name": "Fault LogService", "OverWritePolicy": "Unknown",
	})
}

// noEntries is a log of a kind that this BMC never fills.
func noEntries(uri, name string) handler {
	return func(*BMC, *request) reply {
		return collectionOf(uri+"/Entries", "LogEntryCollection", name+" Entries", []obj{},
			obj{"Description": "Collection of " + name + " Entries"})
	}
}

func getDumps(b *BMC, _ *request) reply {
	members := make([]obj, len(b.state.Dumps))
	for i, d := range b.state.Dumps {
		members[i] = b.dumpBody(d)
	}
	return collectionOf(dumpURI+"/Entries", "LogEntryCollection", "BMC Dump Entries", members,
		obj{"Description": "Collection of BMC Dump Entries"})
}

func (b *BMC) dumpBody(d dump) obj {
	uri := dumpURI + "/Entries/" + d.ID
	return obj{
		"@odata.id": uri, "@odata.type": "#LogEntry.v1_11_0.LogEntry", "AdditionalDataSizeBytes": dumpSize,
		"AdditionalDataURI": uri + "/attachment", "Created": b.stamp(d.At, microseconds), "DiagnosticDataType": "Manager",
		"EntryType": "Event", "Id": d.ID, "Name": "BMC Dump Entry", "Originator": d.Origin, "OriginatorType": "Client",
	}
}

func (b *BMC) dumpIndex(q *request) int {
	return slices.IndexFunc(b.state.Dumps, func(d dump) bool { return d.ID == q.args["entry"] })
}

func getDump(b *BMC, q *request) reply {
	i := b.dumpIndex(q)
	if i < 0 {
		return notFound("LogEntry", q.args["entry"])
	}
	return ok(b.dumpBody(b.state.Dumps[i]))
}

func getDumpFile(b *BMC, q *request) reply {
	if b.dumpIndex(q) < 0 {
		return notFound("LogEntry", q.args["entry"])
	}
	return reply{status: http.StatusOK, raw: fmt.Sprintf("%*s", dumpSize, ""), rawType: "application/octet-stream"}
}

func deleteDump(b *BMC, q *request) reply {
	i := b.dumpIndex(q)
	if i < 0 {
		return notFound("LogEntry", q.args["entry"])
	}
	b.state.Dumps = slices.Delete(slices.Clone(b.state.Dumps), i, i+1)
	q.dirty = true
	return success()
}

func clearDumps(b *BMC, q *request) reply {
	if _, r, valid := q.action(); !valid {
		return r
	}
	b.state.Dumps, q.dirty = nil, true
	return success()
}

// collectDump takes as long as powering on. Its task tells where the dump is
// in a header of its own payload.
func collectDump(b *BMC, q *request) reply {
	v, r, valid := q.action(input.Field{Path: "DiagnosticDataType", Need: true}, input.Field{Path: "OEMDiagnosticDataType"})
	if !valid {
		return r
	}
	if kind, _ := v.Text("DiagnosticDataType"); kind != "Manager" {
		return internalError()
	}
	headers := []string{"Host: " + q.host, "Content-Length: " + strconv.Itoa(len(q.body))}
	d := dump{Origin: q.origin, At: q.now}
	finish := func(t *task) {
		b.state.LastDump++
		d.ID = strconv.Itoa(b.state.LastDump)
		b.state.Dumps = append(slices.Clone(b.state.Dumps), d)
		t.headers = append(t.headers, "Location: "+dumpURI+"/Entries/"+d.ID)
	}
	return b.begin(q, headers, []step{
		{after: b.cfg.Transition, percent: -1, message: message.New("Success"), state: "Completed", effect: finish},
	})
}

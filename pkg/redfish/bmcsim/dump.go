package bmcsim

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/auth"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/clock"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/hardware"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/input"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/logs"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/tasks"
)

const (
	dumpURI       = managerLogs + "/Dump"
	systemDumpURI = systemLogsURI + "/Dump"
)

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
			"DateTime": b.stamp(q.now, clock.Seconds), "DateTimeLocalOffset": "+00:00", "Description": owner + " Dump LogService",
			"Entries": hardware.Link(uri + "/Entries"), "Id": "Dump", "Name": "Dump LogService", "OverWritePolicy": "WrapsWhenFull",
		})
	}
}

func getFaultLog(b *BMC, q *request) reply {
	const uri = managerLogs + "/FaultLog"
	return ok(obj{
		"@odata.id": uri, "@odata.type": "#LogService.v1_2_0.LogService",
		"Actions":  obj{"#LogService.ClearLog": obj{"target": uri + "/Actions/LogService.ClearLog"}},
		"DateTime": b.stamp(q.now, clock.Seconds), "DateTimeLocalOffset": "+00:00", "Description": "FaultLog Dump LogService",
		"Entries": hardware.Link(uri + "/Entries"), "Id": "FaultLog", "Name": "Fault LogService", "OverWritePolicy": "Unknown",
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
		members[i] = d.Body(dumpURI+"/Entries", b.state.Clock)
	}
	return collectionOf(dumpURI+"/Entries", "LogEntryCollection", "BMC Dump Entries", members,
		obj{"Description": "Collection of BMC Dump Entries"})
}

func getDump(b *BMC, q *request) reply {
	d, found := b.state.Dump(q.args["entry"])
	if !found {
		return notFound("LogEntry", q.args["entry"])
	}
	return ok(d.Body(dumpURI+"/Entries", b.state.Clock))
}

func getDumpFile(b *BMC, q *request) reply {
	if _, found := b.state.Dump(q.args["entry"]); !found {
		return notFound("LogEntry", q.args["entry"])
	}
	return reply{status: http.StatusOK, raw: fmt.Sprintf("%*s", logs.DumpSize, ""), rawType: "application/octet-stream"}
}

func deleteDump(b *BMC, q *request) reply {
	if !b.state.DropDump(q.args["entry"]) {
		return notFound("LogEntry", q.args["entry"])
	}
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
	finish := func(t *tasks.Task) {
		d := b.state.KeepDump(q.origin, q.now)
		t.Headers = append(t.Headers, "Location: "+dumpURI+"/Entries/"+d.ID)
	}
	return b.begin(q, headers, []tasks.Step{
		{After: b.cfg.Transition, Percent: tasks.Unchanged, Message: message.New("Success"), State: tasks.Completed, Effect: finish},
	})
}

package logs

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/clock"
)

// Journal is what the BMC's own system has logged since its start, as members of
// the collection at uri. An id is a base64 cursor that may end in '=': clients
// must escape it.
func Journal(uri, machine string, start time.Time, offset clock.Offset) []map[string]any {
	lines := []string{
		"systemd: Started Phosphor Host State Manager.", "bmcweb: bmcweb server is running, local endpoint ::",
		"systemd: Started Phosphor Inventory Manager.", "systemd: Reached target Multi-User System.",
		"systemd-timesyncd: Contacted time server.", "phosphor-fan-control: Fans under control.",
	}
	entries := make([]map[string]any, len(lines))
	for i, line := range lines {
		cursor := fmt.Sprintf("s=%s;i=%d;t=%x", machine, i+1, start.UnixMicro())
		id := base64.StdEncoding.EncodeToString([]byte(cursor))
		entries[i] = map[string]any{
			"@odata.id": uri + "/" + id, "@odata.type": "#LogEntry.v1_9_0.LogEntry",
			"Created": offset.Stamp(start, clock.Microseconds), "EntryType": "Oem", "Id": id, "Message": line,
			"Name": "BMC Journal Entry", "OemRecordFormat": "BMC Journal Entry", "Severity": "OK",
		}
	}
	return entries
}

// PostCodes are those of the boot at a moment, as members of the collection at
// uri.
func PostCodes(uri string, boot time.Time, offset clock.Offset) []map[string]any {
	codes := []string{"0x01", "0x15", "0x2B", "0x4F", "0x92", "0xA0"}
	entries := make([]map[string]any, len(codes))
	for i, code := range codes {
		id, after := "B1-"+strconv.Itoa(i+1), "0."+strconv.Itoa(i)+"000"
		entries[i] = map[string]any{
			"@odata.id": uri + "/" + id, "@odata.type": "#LogEntry.v1_9_0.LogEntry",
			"Created": offset.Stamp(boot, clock.Microseconds), "EntryType": "Event", "Id": id,
			"Message":     "Boot Count: 1; Time Stamp Offset: " + after + " seconds; POST Code: " + code,
			"MessageArgs": []string{"1", after, code}, "MessageId": "OpenBMC.0.2.BIOSPOSTCode",
			"Name": "POST Code Log Entry", "Severity": "OK",
		}
	}
	return entries
}

// DumpSize is the length of a dump in bytes.
const DumpSize = 20480

// Dump is a collection of the BMC's diagnostic data.
type Dump struct {
	ID, Origin string
	At         time.Time
}

// Archive are the dumps that a BMC keeps. Ids are not used again.
type Archive struct {
	Dumps    []Dump
	LastDump int
}

// KeepDump puts a dump in and gives it its ID.
func (a *Archive) KeepDump(origin string, at time.Time) Dump {
	a.LastDump++
	d := Dump{ID: strconv.Itoa(a.LastDump), Origin: origin, At: at}
	a.Dumps = append(slices.Clone(a.Dumps), d)
	return d
}

// Dump is the one with an id.
func (a Archive) Dump(id string) (Dump, bool) {
	if i := a.index(id); i >= 0 {
		return a.Dumps[i], true
	}
	return Dump{}, false
}

// DropDump takes the dump with an id out, and reports whether there was one.
func (a *Archive) DropDump(id string) bool {
	i := a.index(id)
	if i >= 0 {
		a.Dumps = slices.Delete(slices.Clone(a.Dumps), i, i+1)
	}
	return i >= 0
}

func (a Archive) index(id string) int {
	return slices.IndexFunc(a.Dumps, func(d Dump) bool { return d.ID == id })
}

// Body is the dump as a member of the collection at uri.
func (d Dump) Body(uri string, offset clock.Offset) map[string]any {
	uri += "/" + d.ID
	return map[string]any{
		"@odata.id": uri, "@odata.type": "#LogEntry.v1_11_0.LogEntry", "AdditionalDataSizeBytes": DumpSize,
		"AdditionalDataURI": uri + "/attachment", "Created": offset.Stamp(d.At, clock.Microseconds), "DiagnosticDataType": "Manager",
		"EntryType": "Event", "Id": d.ID, "Name": "BMC Dump Entry", "Originator": d.Origin, "OriginatorType": "Client",
	}
}

package logs

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/clock"
)

var start = time.Unix(1795304937, 123456000)

// add writes entries, each so many seconds after start.
func add(l *Log, style Style, seconds ...int) (ids []string) {
	for i, s := range seconds {
		e := l.Add(Entry{At: start.Add(time.Duration(s) * time.Second), MessageID: "DCPowerOn", Message: strconv.Itoa(i), Severity: "OK"}, style)
		ids = append(ids, e.ID)
	}
	return ids
}

func messages(entries []Entry) (all []string) {
	for _, e := range entries {
		all = append(all, e.Message)
	}
	return all
}

// The ids are as recorded: the time, and _N for more in one second.
func TestIDsOfTheLogInAFile(t *testing.T) {
	var l Log
	got := add(&l, File, 0, 0, 1, 0, 2, 1)
	want := []string{"1795304937", "1795304937_1", "1795304938", "1795304937_2", "1795304939", "1795304938_1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Those on D-Bus are numbers from 0xFF000000 on; no order may be read from them.
func TestIDsOfTheLogOnDBus(t *testing.T) {
	var l Log
	ids := add(&l, DBus, 0, 0, 1, 2, 3, 4, 5, 6)
	seen, rising := map[string]bool{}, true
	for i, id := range ids {
		if len(id) != 10 || !strings.HasPrefix(id, "42") || seen[id] {
			t.Errorf("id %s", id)
		}
		seen[id] = true
		rising = rising && (i == 0 || ids[i-1] < id)
	}
	if rising {
		t.Errorf("ids rise: %v", ids)
	}
}

func TestTheOldestMakesRoom(t *testing.T) {
	var l Log
	for i := range maxEntries + 3 {
		add(&l, File, i)
	}
	if len(l) != maxEntries || l[0].At != start.Add(3*time.Second) || l.Index("1795304937") >= 0 {
		t.Errorf("%d entries from %v on", len(l), l[0].At)
	}
}

func TestOrder(t *testing.T) {
	var l Log
	add(&l, File, 0, 1, 2)
	if diff := cmp.Diff([]string{"0", "1", "2"}, messages(l.Shown(File))); diff != "" {
		t.Errorf("in a file (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"2", "1", "0"}, messages(l.Shown(DBus))); diff != "" {
		t.Errorf("on D-Bus (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"0", "1", "2"}, messages(l)); diff != "" {
		t.Errorf("showing it turned it round:\n%s", diff)
	}
}

// A BMC's state is copied before it is changed and the copy may be dropped.
func TestCopiesShareNothing(t *testing.T) {
	for name, change := range map[string]func(*Log){
		"add":     func(l *Log) { add(l, File, 9) },
		"resolve": func(l *Log) { l.Resolve(1, true, start) },
		"delete":  func(l *Log) { l.Delete(0) },
	} {
		var l Log
		ids := add(&l, File, 0, 1, 2)
		before := l.Shown(File)
		other := l
		change(&other)
		if diff := cmp.Diff([]Entry(before), []Entry(l)); diff != "" {
			t.Errorf("%s changes the other copy too:\n%s", name, diff)
		}
		if l.Index(ids[2]) != 2 {
			t.Errorf("%s moves entries of the other copy", name)
		}
	}
}

func TestResolveAndDelete(t *testing.T) {
	var l Log
	ids := add(&l, DBus, 0, 1, 2)
	later := start.Add(time.Hour)
	l.Resolve(l.Index(ids[1]), true, later)
	if e := l[1]; !e.Resolved || e.Changed != later || e.At != start.Add(time.Second) {
		t.Errorf("resolved: %+v", e)
	}
	l.Delete(l.Index(ids[0]))
	if l.Index(ids[0]) >= 0 || l.Index(ids[1]) != 0 || l.Index(ids[2]) != 1 || l.Index("") >= 0 {
		t.Errorf("after deleting: %v", messages(l))
	}
}

func TestAnEntryAsEitherLogShowsIt(t *testing.T) {
	for _, tt := range []struct {
		style Style
		want  map[string]any
	}{
		{File, map[string]any{
			"@odata.id": "/log/1795304937", "@odata.type": "#LogEntry.v1_9_0.LogEntry", "EntryType": "Event", "Id": "1795304937",
			"Name": "System Event Log Entry", "Severity": "Warning", "Created": "2026-11-21T23:48:57+00:00",
			"Message": "a fan has failed", "MessageArgs": []string{"fan0"}, "MessageId": "OpenBMC.0.5.FanFailed",
		}},
		{DBus, map[string]any{ // its message is the id of one
			"@odata.type": "#LogEntry.v1_9_0.LogEntry", "EntryType": "Event", "Name": "System Event Log Entry", "Severity": "Warning",
			"Created": "2026-11-21T23:48:57.123+00:00", "Modified": "2026-11-21T23:48:57.123+00:00",
			"Message": "xyz.openbmc_project.State.FanFailed", "Resolved": false,
		}},
	} {
		var l Log
		e := l.Add(Entry{At: start, MessageID: "FanFailed", Message: "a fan has failed", Severity: "Warning", Args: []string{"fan0"}}, tt.style)
		if tt.style == DBus {
			tt.want["Id"], tt.want["@odata.id"], tt.want["AdditionalDataURI"] = e.ID, "/log/"+e.ID, "/log/"+e.ID+"/attachment"
		}
		if diff := cmp.Diff(tt.want, e.Body("/log", tt.style, 0)); diff != "" {
			t.Errorf("style %v (-want +got):\n%s", tt.style, diff)
		}
	}
}

func TestAnEntryAsListenersHearOfIt(t *testing.T) {
	var l Log
	e := l.Add(Entry{At: start, MessageID: "DCPowerOn", Message: "Host system DC power is on", Severity: "OK"}, File)
	want := map[string]any{
		"EventTimestamp": "2026-11-22T00:48:57+00:00", "Message": "Host system DC power is on", "MessageArgs": []string{},
		"MessageId": "OpenBMC.0.5.DCPowerOn", "Severity": "OK",
	}
	got := e.Event(clock.Offset(time.Hour))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if text, err := json.Marshal(got); err != nil || strings.Contains(string(text), "null") {
		t.Errorf("as JSON: %s %v", text, err)
	}
}

func TestTheJournalsCursors(t *testing.T) {
	lines, padded := Journal("/journal", "11112222-3333", start, 0), 0
	for i, line := range lines {
		id, _ := line["Id"].(string)
		text, err := base64.StdEncoding.DecodeString(id)
		if want := fmt.Sprintf("s=11112222-3333;i=%d;t=%x", i+1, start.UnixMicro()); err != nil || string(text) != want {
			t.Errorf("cursor %q %v, want %q", text, err, want)
		}
		if strings.HasSuffix(id, "=") {
			padded++
		}
		if line["@odata.id"] != "/journal/"+id || line["Message"] == "" || line["Created"] != "2026-11-21T23:48:57.123456+00:00" {
			t.Errorf("line %d is %v", i, line)
		}
	}
	if len(lines) == 0 || padded == 0 {
		t.Errorf("%d of %d ids need escaping", padded, len(lines))
	}
	again := Journal("/journal", "11112222-3333", start.Add(time.Second), 0)
	if again[0]["Id"] == lines[0]["Id"] {
		t.Error("another start has the same cursors")
	}
}

func TestPostCodes(t *testing.T) {
	all := PostCodes("/codes", start, 0)
	first, last := all[0], all[len(all)-1]
	if first["@odata.id"] != "/codes/B1-1" || first["Message"] != "Boot Count: 1; Time Stamp Offset: 0.0000 seconds; POST Code: 0x01" {
		t.Errorf("the first is %v", first)
	}
	if diff := cmp.Diff([]string{"1", "0.5000", "0xA0"}, last["MessageArgs"]); diff != "" {
		t.Errorf("the last (-want +got):\n%s", diff)
	}
}

func TestDumps(t *testing.T) {
	var a Archive
	one, two := a.KeepDump("192.0.2.1", start), a.KeepDump("192.0.2.2", start.Add(time.Second))
	if one.ID != "1" || two.ID != "2" {
		t.Errorf("ids %s and %s", one.ID, two.ID)
	}
	before := a
	if !a.DropDump("1") || a.DropDump("1") || a.DropDump("") {
		t.Error("a dump is not dropped exactly once")
	}
	if _, found := a.Dump("1"); found {
		t.Error("a dropped dump is found")
	}
	if got, found := before.Dump("1"); !found || got != one {
		t.Error("dropping changed a copy")
	}
	if got, found := a.Dump("2"); !found || got != two {
		t.Errorf("the other is %+v %v", got, found)
	}
	a.DropDump("2")
	if three := a.KeepDump("x", start); three.ID != "3" {
		t.Errorf("the id %s is used again", three.ID)
	}
}

func TestADumpsBody(t *testing.T) {
	want := map[string]any{
		"@odata.id": "/dumps/7", "@odata.type": "#LogEntry.v1_11_0.LogEntry", "AdditionalDataSizeBytes": DumpSize,
		"AdditionalDataURI": "/dumps/7/attachment", "Created": "2026-11-21T23:48:57.123456+00:00", "DiagnosticDataType": "Manager",
		"EntryType": "Event", "Id": "7", "Name": "BMC Dump Entry", "Originator": "192.0.2.1", "OriginatorType": "Client",
	}
	if diff := cmp.Diff(want, Dump{ID: "7", Origin: "192.0.2.1", At: start}.Body("/dumps", 0)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

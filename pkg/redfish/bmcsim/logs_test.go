package bmcsim_test

import (
	"net/http"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

const (
	eventLog = "/redfish/v1/Systems/system/LogServices/EventLog"
	entries  = eventLog + "/Entries"
)

// ids are those of the entries of the event log, in the order that it shows them.
func (c *caller) ids() (all []string) {
	c.t.Helper()
	list, _ := c.want(c.get(entries), http.StatusOK).body["Members"].([]any)
	for _, m := range list {
		entry, _ := m.(map[string]any)
		id, _ := entry["Id"].(string)
		all = append(all, id)
	}
	return all
}

// TestTheDBusLog: the newest is first, entries can be resolved and deleted, none
// has a file behind it, and a cleared log says that it was.
func TestTheDBusLog(t *testing.T) {
	b, c := start(t, bmcsim.Config{DBusLog: true})
	c.login("root", bmcsim.DefaultPassword)
	c.want(c.do(http.MethodPost, eventLog+"/Actions/LogService.ClearLog", "{}"), http.StatusOK)
	for _, text := range []string{"first", "second"} {
		if err := b.Log("PowerSupplyFanFailed", text, "psu0"); err != nil {
			t.Fatal(err)
		}
	}
	all := c.ids()
	if len(all) != 3 {
		t.Fatalf("the log has %v, want two entries and that it was cleared", all)
	}
	newest := entries + "/" + all[0]
	if got := c.get(newest).body; got["Resolved"] != false || got["AdditionalDataURI"] != newest+"/attachment" {
		t.Errorf("the newest is %v", got)
	}
	c.want(c.do(http.MethodPatch, newest, `{"Resolved":true}`), http.StatusNoContent)
	if c.get(newest).body["Resolved"] != true {
		t.Error("it is not resolved")
	}
	c.want(c.do(http.MethodPatch, newest, `{"Resolved":"yes"}`), http.StatusBadRequest)
	c.want(c.get(newest+"/attachment"), http.StatusBadRequest)
	c.want(c.do(http.MethodDelete, newest, ""), http.StatusOK)
	for _, method := range []string{http.MethodGet, http.MethodPatch, http.MethodDelete} {
		if got := c.want(c.do(method, newest, `{"Resolved":true}`), http.StatusNotFound); got.messageID() != "Base.1.19.ResourceNotFound" {
			t.Errorf("%s of a deleted entry: %s", method, got.text)
		}
	}
	if left := c.ids(); len(left) != 2 || left[0] != all[1] {
		t.Errorf("left are %v of %v", left, all)
	}
}

// TestTheUsualLog: entries are inlined, the oldest first, and can't be changed.
func TestTheUsualLog(t *testing.T) {
	b, c := start(t, bmcsim.Config{})
	c.login("root", bmcsim.DefaultPassword)
	c.want(c.do(http.MethodPost, eventLog+"/Actions/LogService.ClearLog", "{}"), http.StatusOK)
	for range 2 { // in one second: the second one has a number behind its id
		if err := b.Log("PowerSupplyFanFailed", "a fan has failed", "psu0"); err != nil {
			t.Fatal(err)
		}
	}
	all := c.ids()
	if len(all) != 2 || all[0] == all[1] {
		t.Fatalf("the log has %v", all)
	}
	first := c.want(c.get(entries+"/"+all[0]), http.StatusOK).body
	if first["Message"] != "a fan has failed" || first["Severity"] != "Warning" || first["Resolved"] != nil {
		t.Errorf("the first is %v", first)
	}
	c.want(c.do(http.MethodDelete, entries+"/"+all[0], ""), http.StatusMethodNotAllowed)
	c.want(c.get(entries+"/nothing"), http.StatusNotFound)
	c.want(c.do(http.MethodPost, eventLog+"/Actions/LogService.ClearLog", `{"x":1}`), http.StatusBadRequest)
	c.want(c.do(http.MethodPost, eventLog+"/Actions/LogService.ClearLog", "{}"), http.StatusOK)
	if left := c.ids(); len(left) > 0 {
		t.Errorf("after it was cleared: %v", left)
	}
}

// TestEveryRegisteredMessageHasItsText: a key without one would say that the
// request failed inside.
func TestEveryRegisteredMessageHasItsText(t *testing.T) {
	_, c := start(t, bmcsim.Config{})
	c.login("root", bmcsim.DefaultPassword)
	messages, _ := c.want(c.get("/redfish/v1/Registries/Base/Base"), http.StatusOK).body["Messages"].(map[string]any)
	if len(messages) < 30 {
		t.Fatalf("only %d messages", len(messages))
	}
	internal, _ := messages["InternalError"].(map[string]any)
	for key, m := range messages {
		one, _ := m.(map[string]any)
		if text := one["Message"]; text == "" || text == internal["Message"] && key != "InternalError" {
			t.Errorf("%s says %v", key, text)
		}
	}
}

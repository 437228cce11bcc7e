package message

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The texts are those that a recorded bmcweb sent, argument for argument.
func TestTextsAreTheRegistrys(t *testing.T) {
	for _, tt := range []struct {
		key      string
		args     []string
		severity string
		want     string
	}{
		{"Success", nil, OK, "The request completed successfully."},
		{"Created", nil, OK, "The resource was created successfully."},
		{"AccountRemoved", nil, OK, "The account was successfully removed."},
		{
			"ActionParameterUnknown",
			[]string{"Reset", "Explode"},
			Warning, "The action Reset was submitted with the invalid parameter Explode.",
		},
		{
			"ActionParameterNotSupported",
			[]string{"Explode", "ResetType"},
			Warning, "The parameter Explode for the action ResetType is not supported on the target resource.",
		},
		{
			"ResourceNotFound",
			[]string{"ComputerSystem", "nothere"},
			Critical, "The requested resource of type ComputerSystem named 'nothere' was not found.",
		},
		{
			"ResourceMissingAtURI",
			[]string{"/redfish/v1/x"},
			Critical, "The resource at the URI '/redfish/v1/x' was not found.",
		},
		{
			"ResourceAlreadyExists",
			[]string{"ManagerAccount", "UserName", "op"},
			Critical, "The requested resource of type ManagerAccount with the property UserName with the value 'op' already exists.",
		},
		{
			"ResourceAtUriUnauthorized",
			[]string{"/redfish/v1/SessionService/Sessions", "Invalid username or password"},
			Critical,
			"While accessing the resource at '/redfish/v1/SessionService/Sessions', the service received an authorization error 'Invalid username or password'.",
		},
		{
			"ServiceTemporarilyUnavailable",
			[]string{"10"},
			Critical, "The service is temporarily unavailable.  Retry in 10 seconds.",
		},
		{
			"PropertyMissing",
			[]string{"Password"},
			Warning, "The property Password is a required property and must be included in the request.",
		},
		{
			"PropertyValueFormatError",
			[]string{"null", "Password"},
			Warning, "The value 'null' for the property Password is not a format that the property can accept.",
		},
		{
			"PropertyValueModified",
			[]string{"SessionTimeout", `"60"`},
			Warning, `The property SessionTimeout was assigned the value '"60"' due to modification by the service.`,
		},
		{
			"PropertyNotWritable",
			[]string{"HostName"},
			Warning, "The property HostName is a read-only property and cannot be assigned a value.",
		},
		{"PropertyUnknown", []string{"%1"}, Warning, "The property %1 is not in the list of valid properties for the resource."},
		{"OperationNotAllowed", nil, Critical, "The HTTP method is not allowed on this resource."},
		{
			"InternalError",
			nil, Critical, "The request failed due to an internal service error.  The service is still operational.",
		},
	} {
		got := New(tt.key, tt.args...)
		want := map[string]any{
			"@odata.type": "#Message.v1_1_1.Message", "MessageId": "Base.1.19." + tt.key,
			"Message": tt.want, "MessageSeverity": tt.severity, "MessageArgs": append([]string{}, tt.args...),
		}
		if resolution, isText := got["Resolution"].(string); !isText || resolution == "" {
			t.Errorf("%s does not say what to do", tt.key)
		}
		delete(got, "Resolution")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.key, diff)
		}
	}
}

// A client that reads MessageArgs must find a list, never null.
func TestNoArgumentsAreAnEmptyList(t *testing.T) {
	text, err := json.Marshal(New("Success"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), `"MessageArgs":[]`) {
		t.Errorf("it is %s", text)
	}
}

func TestEveryKeyHasATextOfItsOwn(t *testing.T) {
	seen := map[string]string{}
	for _, key := range keys() {
		text := templateOf(key).text
		if other := seen[text]; text == "" || other != "" {
			t.Errorf("%s says %q, as %q does", key, text, other)
		}
		seen[text] = key
	}
	if templateOf("NoSuchMessage") != templateOf("InternalError") {
		t.Error("an unknown key is not an internal error")
	}
}

func TestTemplatesAreWhole(t *testing.T) {
	for _, key := range append(keys(), "ActionNotSupported", "PasswordChangeRequired", "StrictAccountTypes") {
		m := templateOf(key)
		if !slices.Contains([]string{OK, Warning, Critical}, m.severity) || m.resolution == "" || !strings.HasSuffix(m.text, ".") {
			t.Errorf("%s: %+v", key, m)
		}
		if strings.Contains(m.text, "%2") && !strings.Contains(m.text, "%1") {
			t.Errorf("%s has a second argument and no first", key)
		}
		if key != "InternalError" && m == templateOf("InternalError") {
			t.Errorf("%s has no text", key)
		}
	}
}

func TestTheRegistryCountsArguments(t *testing.T) {
	all := Entries()
	for key, want := range map[string]int{
		"Success": 0, "PropertyMissing": 1, "ResourceNotFound": 2, "ResourceAlreadyExists": 3, "ServiceTemporarilyUnavailable": 1,
	} {
		entry, _ := all[key].(map[string]any)
		types, _ := entry["ParamTypes"].([]string)
		if entry["NumberOfArgs"] != want || len(types) != want {
			t.Errorf("%s takes %v (%v), want %d", key, entry["NumberOfArgs"], types, want)
		}
		if entry["Message"] != entry["Description"] || entry["Severity"] != entry["MessageSeverity"] {
			t.Errorf("%s: %v", key, entry)
		}
	}
	if len(all) != len(keys()) {
		t.Errorf("%d entries of %d keys", len(all), len(keys()))
	}
}

func TestVersions(t *testing.T) {
	for _, name := range Registries() {
		if strings.Count(Version(name), ".") != 2 {
			t.Errorf("%s has version %q", name, Version(name))
		}
	}
	if !strings.HasPrefix(Version("Base"), strings.TrimSuffix(strings.TrimPrefix(registry, "Base."), ".")) {
		t.Errorf("messages are of %s, the registry is %s", registry, Version("Base"))
	}
	if Version("Nonsense") != "" {
		t.Error("an unknown registry has a version")
	}
}

func TestTaskMessages(t *testing.T) {
	for _, tt := range []struct {
		key, text, severity string
		more                []string
		args                []string
	}{
		{"TaskStarted", "The task with Id '3' has started.", OK, nil, []string{"3"}},
		{"TaskProgressChanged", "The task with Id '3' has changed to progress 40 percent complete.", OK, []string{"40"}, []string{"3", "40"}},
		{"TaskCompletedOK", "The task with Id '3' has completed.", OK, nil, []string{"3"}},
		{"TaskAborted", "The task with Id '3' has completed with errors.", Critical, nil, []string{"3"}},
	} {
		want := map[string]any{
			"@odata.type": "#Message.v1_1_1.Message", "Message": tt.text, "MessageArgs": tt.args,
			"MessageId": "TaskEvent.1.0." + tt.key, "MessageSeverity": tt.severity, "Resolution": "None.",
		}
		if diff := cmp.Diff(want, Task(tt.key, "3", tt.more...)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.key, diff)
		}
	}
}

func TestErrorBodies(t *testing.T) {
	type msg = map[string]any
	one, two := New("PropertyMissing", "UserName"), New("PropertyMissing", "Password")
	for _, tt := range []struct {
		name       string
		messages   []msg
		code, text string
	}{
		{"one message names itself", []msg{one}, "Base.1.19.PropertyMissing", "The property UserName is a required property and must be included in the request."},
		{
			"several are a general error with the full version",
			[]msg{one, two},
			"Base.1.19.0.GeneralError", "A general error has occurred. See Resolution for information on how to resolve the error.",
		},
	} {
		want := msg{"error": msg{"@Message.ExtendedInfo": tt.messages, "code": tt.code, "message": tt.text}}
		if diff := cmp.Diff(want, Error(tt.messages...)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// A note stands in the body itself: a client that looks for "error" finds none.
func TestANoteIsNoError(t *testing.T) {
	want := map[string]any{"@Message.ExtendedInfo": []map[string]any{New("Success")}}
	if diff := cmp.Diff(want, Note("Success")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestQuoted(t *testing.T) {
	if got := Quoted("Pxe"); got != `"Pxe"` {
		t.Errorf("%s", got)
	}
}

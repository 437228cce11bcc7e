package message

import "strings"

// Registries are the names of those a BMC has.
func Registries() []string { return []string{"Base", "TaskEvent", "OpenBMC"} }

// Version is the full version of a registry, "" of one that there is not.
func Version(name string) string {
	return map[string]string{"Base": "1.19.0", "TaskEvent": "1.0.3", "OpenBMC": "0.5.0"}[name]
}

// Entries are the messages of the Base registry that this simulator can say,
// not all that the standard has, as a MessageRegistry shows them.
func Entries() map[string]any {
	all := map[string]any{}
	for _, key := range keys() {
		all[key] = templateOf(key).entry()
	}
	return all
}

func (t template) entry() map[string]any {
	n := 0
	for _, mark := range []string{"%1", "%2", "%3"} {
		if strings.Contains(t.text, mark) {
			n++
		}
	}
	types := make([]string, n)
	for i := range types {
		types[i] = "string"
	}
	return map[string]any{
		"Description": t.text, "Message": t.text, "MessageSeverity": t.severity, "NumberOfArgs": n, "ParamTypes": types,
		"Resolution": t.resolution, "Severity": t.severity,
	}
}

// keys are the messages that templateOf knows and the registry shows.
func keys() []string {
	return []string{
		"Success", "Created", "AccountRemoved", "ActionParameterNotSupported", "ActionParameterUnknown", "EmptyJSON",
		"NoOperation", "MalformedJSON", "UnrecognizedRequestBody", "EventSubscriptionLimitExceeded", "EventBufferExceeded",
		"InsufficientPrivilege", "OperationNotAllowed", "ResourceCannotBeDeleted", "PreconditionFailed",
		"QueryParameterValueFormatError", "QueryNotSupportedOnResource", "ResourceNotFound", "ResourceMissingAtURI",
		"ResourceAlreadyExists", "ResourceAtUriUnauthorized", "ServiceTemporarilyUnavailable", "PropertyMissing",
		"PropertyNotWritable", "PropertyUnknown", "PropertyValueConflict", "PropertyValueFormatError",
		"PropertyValueExternalConflict", "PropertyValueIncorrect", "PropertyValueModified", "PropertyValueNotInList",
		"PropertyValueOutOfRange", "PropertyValueTypeError", "InternalError",
	}
}

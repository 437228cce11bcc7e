// Package message is what a BMC says about a request: the messages of the Base
// and the TaskEvent registry, and the bodies that carry them. It is pure.
package message

import (
	"strconv"
	"strings"
)

const messageType = "#Message.v1_1_1.Message"

// New is one entry of @Message.ExtendedInfo: the message of the Base registry
// with this key, and its arguments. An unknown key is an InternalError.
func New(key string, args ...string) map[string]any {
	t := templateOf(key)
	text := t.text
	for i, arg := range args {
		text = strings.ReplaceAll(text, "%"+strconv.Itoa(i+1), arg)
	}
	if args == nil {
		args = []string{}
	}
	return map[string]any{
		"@odata.type":     messageType,
		"Message":         text,
		"MessageArgs":     args,
		"MessageId":       registry + key,
		"MessageSeverity": t.severity,
		"Resolution":      t.resolution,
	}
}

// Task is a message of the TaskEvent registry: about the task with this id, and
// what else there is to say.
func Task(key, id string, more ...string) map[string]any {
	text, severity := "has started", OK
	switch key {
	case "TaskProgressChanged":
		text = "has changed to progress " + strings.Join(more, " ") + " percent complete"
	case "TaskCompletedOK":
		text = "has completed"
	case "TaskAborted":
		text, severity = "has completed with errors", Critical
	}
	return map[string]any{
		"@odata.type": messageType, "Message": "The task with Id '" + id + "' " + text + ".",
		"MessageArgs": append([]string{id}, more...), "MessageId": "TaskEvent.1.0." + key,
		"MessageSeverity": severity, "Resolution": "None.",
	}
}

// Error is the body of a refusal, of at least one message. With several of them
// bmcweb names a general error, spelled with the registry's full version.
func Error(messages ...map[string]any) map[string]any {
	first := messages[0]
	code, text := first["MessageId"], first["Message"]
	if len(messages) > 1 {
		code = registry + "0.GeneralError"
		text = "A general error has occurred. See Resolution for information on how to resolve the error."
	}
	return map[string]any{"error": map[string]any{
		"@Message.ExtendedInfo": messages, "code": code, "message": text,
	}}
}

// Note is a body with a bare message, without an error.
func Note(key string) map[string]any {
	return map[string]any{"@Message.ExtendedInfo": []map[string]any{New(key)}}
}

// Quoted is how bmcweb shows a text value in a message.
func Quoted(s string) string { return `"` + s + `"` }

package main

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-cmp/cmp"
)

// answer is what the simulator said.
type answer struct {
	status int
	header http.Header
	text   string
	body   any
	err    error // there was no whole answer
}

// difference is "" if the answer is as recorded: status, headers, and the
// body's properties and types, or its messages word for word.
func difference(rec recording, got answer) string {
	if rec.Response.Exception != "" {
		return brokenDifference(rec.Response.Exception, got.err)
	}
	if got.err != nil {
		return got.err.Error()
	}
	if got.status != rec.Response.Status {
		return fmt.Sprintf("status %d, recorded %d: %.300s", got.status, rec.Response.Status, got.text)
	}
	if diff := cmp.Diff(comparable(rec.header()), comparable(flat(got.header))); diff != "" {
		return "headers (-recorded +simulated):\n" + diff
	}
	return bodyDifference(rec, got)
}

// brokenDifference compares how a connection failed, by the TLS alert.
func brokenDifference(recorded string, err error) string {
	if err == nil {
		return "there is an answer, recorded: " + recorded
	}
	for alert, ours := range map[string]string{"CERTIFICATE_REQUIRED": "certificate required", "UNKNOWN_CA": "unknown certificate authority"} {
		if strings.Contains(recorded, alert) && !strings.Contains(err.Error(), ours) {
			return fmt.Sprintf("%v, recorded %s", err, recorded)
		}
	}
	return ""
}

// flat is a header as the recordings have it, in the usual spelling.
func flat(h http.Header) map[string]string {
	out := map[string]string{}
	for name := range h {
		out[name] = h.Get(name)
	}
	return out
}

// comparable drops what can't be equal: times, lengths and random values. Of
// tags, tokens and cookies the form is compared.
func comparable(h map[string]string) map[string]string {
	out := map[string]string{}
	for name, value := range h {
		name = http.CanonicalHeaderKey(name)
		switch name {
		case "Date", "Content-Length":
			continue
		case "Etag":
			value = "strong: " + strconv.FormatBool(strings.HasPrefix(value, `"`))
		case "X-Auth-Token":
			value = fmt.Sprintf("%d characters", len(value))
		case "Set-Cookie":
			first, rest, _ := strings.Cut(value, ";")
			cookie, token, _ := strings.Cut(first, "=")
			value = fmt.Sprintf("%s of %d;%s", cookie, len(token), rest)
		case "Location":
			value = value[:strings.LastIndexByte(value, '/')]
		}
		out[name] = value
	}
	return out
}

func bodyDifference(rec recording, got answer) string {
	want, isObj := rec.Response.Body.(map[string]any)
	if !isObj {
		if strings.HasPrefix(rec.Response.BodyText, "<") { // XML, HTML: their own schemas and texts
			return cmp.Diff(rec.Response.BodyText[:5], got.text[:min(5, len(got.text))])
		}
		if rec.header()["Content-Type"] == "application/cbor" { // kept as text, so bytes that are none are lost
			return cmp.Diff(len([]rune(rec.Response.BodyText)), len([]rune(got.text)))
		}
		if rec.header()["Content-Encoding"] == "zstd" {
			return cmp.Diff(true, strings.HasPrefix(got.text, "\x28\xb5\x2f\xfd"))
		}
		return cmp.Diff(rec.Response.BodyText, got.text)
	}
	if want["error"] != nil || want["@Message.ExtendedInfo"] != nil {
		return cmp.Diff(any(want), got.body)
	}
	return cmp.Diff(shape("", trimmed(want, got.body)), shape("", trimmed(got.body, want)))
}

// trimmed empties the arrays of v that are empty in the other value: what a
// server has none of has no shape.
func trimmed(v, other any) any {
	switch v := v.(type) {
	case map[string]any:
		o, _ := other.(map[string]any)
		out := map[string]any{}
		for key := range v {
			out[key] = trimmed(v[key], o[key])
		}
		return out
	case []any:
		o, isList := other.([]any)
		if isList && len(o) == 0 {
			return o
		}
		out := slices.Clone(v)
		for i := range out {
			if i < len(o) {
				out[i] = trimmed(out[i], o[i])
			}
		}
		return out
	}
	return v
}

// shape is the list of properties with their types. Of an array the first
// item counts: our own number of sensors or drives is as good as theirs. Of
// messages every one counts, with its arguments.
func shape(path string, v any) []string {
	switch v := v.(type) {
	case map[string]any:
		var list []string
		for _, key := range slices.Sorted(maps.Keys(v)) {
			list = append(list, shape(path+"/"+key, v[key])...)
		}
		if v["@odata.type"] != nil {
			list = append(list, fmt.Sprintf("%s is %v", path, v["@odata.type"]))
		}
		return list
	case []any:
		if len(v) == 0 {
			return []string{path + "[]"}
		}
		if strings.HasSuffix(path, "/Messages") {
			return messages(path, v)
		}
		return append(shape(path+"[]", v[0]), path+"[]")
	default:
		return []string{fmt.Sprintf("%s %T", path, v)}
	}
}

func messages(path string, list []any) (out []string) {
	for _, item := range list {
		m, _ := item.(map[string]any)
		out = append(out, fmt.Sprint(path, " ", m["MessageId"], m["MessageArgs"], m["MessageSeverity"], m["Message"]))
	}
	return out
}

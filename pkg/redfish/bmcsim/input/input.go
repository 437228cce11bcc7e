// Package input is what a client sends: a JSON body, the properties it may carry,
// and everything that is wrong with it, in the words of the Base registry. It is
// pure.
package input

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"sort"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
)

// obj is a JSON object.
type obj = map[string]any

// Kind is the JSON type that a property accepts.
type Kind uint8

// The kinds.
const (
	Text Kind = iota
	Bool
	Int
	Texts   // array of texts
	Objects // array of objects
)

// Field is a property that a request may carry. A path with "/" is nested.
type Field struct {
	Path string
	Kind Kind
	Need bool
}

// Values are the accepted properties of a body by their paths: a string, a bool,
// an int, a []string or a []map[string]any.
type Values map[string]any

// Text is the text at a path, if it was given.
func (v Values) Text(path string) (value string, given bool) {
	value, given = v[path].(string)
	return value, given
}

// Bool is the truth value at a path, if it was given.
func (v Values) Bool(path string) (value, given bool) {
	value, given = v[path].(bool)
	return value, given
}

// Int is the number at a path, if it was given.
func (v Values) Int(path string) (value int, given bool) {
	value, given = v[path].(int)
	return value, given
}

// Change reads the body of a PATCH, or of a POST that makes something. Nothing
// of a body with a problem may be applied.
func Change(contentType string, body []byte, fields ...Field) (v Values, problems []map[string]any) {
	o, problems := object(contentType, body)
	if problems != nil {
		return nil, problems
	}
	if len(o) == 0 {
		return nil, one("EmptyJSON")
	}
	for key := range o {
		if strings.HasPrefix(key, "@odata.") {
			delete(o, key)
		}
	}
	if len(o) == 0 {
		return nil, one("NoOperation")
	}
	return unpack(o, fields)
}

// Action reads the body of an action: an empty object is one without
// properties.
func Action(contentType string, body []byte, fields ...Field) (v Values, problems []map[string]any) {
	o, problems := object(contentType, body)
	if problems != nil {
		return nil, problems
	}
	return unpack(o, fields)
}

func one(key string) []obj { return []obj{message.New(key)} }

// object is the body as a JSON object; an array counts as an empty one.
func object(contentType string, body []byte) (o obj, problems []map[string]any) {
	mediaType, _, _ := strings.Cut(contentType, ";")
	if strings.TrimSpace(mediaType) != "application/json" {
		return nil, one("UnrecognizedRequestBody")
	}
	v, err := decode(body)
	if err != nil {
		return nil, one("MalformedJSON")
	}
	o, _ = v.(obj)
	return o, nil
}

func decode(text []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one value")
	}
	return v, nil
}

// unpack takes the fields out of o, or names everything that is wrong.
func unpack(o obj, fields []Field) (Values, []obj) {
	v := Values{}
	problems := collect(o, "", fields, v)
	if len(problems) == 0 {
		problems = missing(fields, v)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return v, nil
}

func missing(fields []Field, v Values) (problems []map[string]any) {
	for _, f := range fields {
		if _, found := v[f.Path]; f.Need && !found {
			problems = append(problems, message.New("PropertyMissing", f.Path))
		}
	}
	return problems
}

func collect(o obj, prefix string, fields []Field, v Values) (problems []map[string]any) {
	keys := make([]string, 0, len(o))
	for key := range o {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	for _, key := range keys {
		path := prefix + key
		i := slices.IndexFunc(fields, func(f Field) bool { return f.Path == path })
		switch {
		case i >= 0:
			value, fits := convert(o[key], fields[i].Kind)
			if !fits {
				problems = append(problems, message.New("PropertyValueTypeError", Compact(o[key]), path))
				continue
			}
			v[path] = value
		case slices.ContainsFunc(fields, func(f Field) bool { return strings.HasPrefix(f.Path, path+"/") }):
			inner, isObj := o[key].(obj)
			if !isObj {
				problems = append(problems, message.New("PropertyValueTypeError", Compact(o[key]), path))
				continue
			}
			problems = append(problems, collect(inner, path+"/", fields, v)...)
		default:
			problems = append(problems, message.New("PropertyUnknown", key))
		}
	}
	return problems
}

func convert(raw any, k Kind) (any, bool) {
	switch k {
	case Text:
		s, fits := raw.(string)
		return s, fits
	case Bool:
		b, fits := raw.(bool)
		return b, fits
	case Int:
		n, isNumber := raw.(json.Number)
		i, err := n.Int64()
		return int(i), isNumber && err == nil
	case Texts:
		return convertAll[string](raw)
	case Objects:
		return convertAll[obj](raw)
	}
	return nil, false
}

func convertAll[T any](raw any) (any, bool) {
	list, isList := raw.([]any)
	out := make([]T, 0, len(list))
	for _, item := range list {
		t, fits := item.(T)
		if !fits {
			return nil, false
		}
		out = append(out, t)
	}
	return out, isList
}

// Compact is v as one line of JSON, as error messages quote it.
func Compact(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return "null"
	}
	return string(text)
}

package bmcsim

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"sort"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
)

// kind is the JSON type a property accepts.
type kind uint8

const (
	textKind kind = iota
	boolKind
	intKind
	textsKind   // array of texts
	objectsKind // array of objects
)

// field is a property a request may carry. A path with "/" is nested.
type field struct {
	path string
	kind kind
	need bool
}

// values are the accepted properties of a request body by their paths.
type values map[string]any

func (v values) text(path string) (string, bool) { s, found := v[path].(string); return s, found }
func (v values) bool(path string) (value, found bool) {
	value, found = v[path].(bool)
	return value, found
}
func (v values) int(path string) (int, bool) { n, found := v[path].(int); return n, found }

// patch reads the body of a PATCH or a POST that makes something. The reply
// is only meaningful if found is false.
func (q *request) patch(fields ...field) (v values, r reply, found bool) {
	o, r, found := q.object()
	if !found {
		return nil, r, false
	}
	if len(o) == 0 {
		return nil, badRequest("EmptyJSON"), false
	}
	for key := range o {
		if strings.HasPrefix(key, "@odata.") {
			delete(o, key)
		}
	}
	if len(o) == 0 {
		return nil, badRequest("NoOperation"), false
	}
	return unpack(o, fields)
}

// action reads the body of an action: an empty object is one without
// properties.
func (q *request) action(fields ...field) (v values, r reply, found bool) {
	o, r, found := q.object()
	if !found {
		return nil, r, false
	}
	return unpack(o, fields)
}

// object is the body as a JSON object; an array counts as an empty one.
func (q *request) object() (o obj, r reply, found bool) {
	mediaType, _, _ := strings.Cut(q.header.Get("Content-Type"), ";")
	if strings.TrimSpace(mediaType) != jsonType {
		return nil, badRequest("UnrecognizedRequestBody"), false
	}
	v, err := decode(q.body)
	if err != nil {
		return nil, badRequest("MalformedJSON"), false
	}
	o, _ = v.(obj)
	return o, reply{}, true
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

// unpack takes the fields out of o, or names everything that is wrong. Nothing
// of a bad request is ever applied.
func unpack(o obj, fields []field) (values, reply, bool) {
	v := values{}
	problems := collect(o, "", fields, v)
	if len(problems) == 0 {
		problems = missing(fields, v)
	}
	if len(problems) > 0 {
		return nil, failure(http.StatusBadRequest, problems...), false
	}
	return v, reply{}, true
}

func missing(fields []field, v values) (problems []obj) {
	for _, f := range fields {
		if _, found := v[f.path]; f.need && !found {
			problems = append(problems, message.New("PropertyMissing", f.path))
		}
	}
	return problems
}

func collect(o obj, prefix string, fields []field, v values) (problems []obj) {
	keys := make([]string, 0, len(o))
	for key := range o {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	for _, key := range keys {
		path := prefix + key
		i := slices.IndexFunc(fields, func(f field) bool { return f.path == path })
		switch {
		case i >= 0:
			value, fits := convert(o[key], fields[i].kind)
			if !fits {
				problems = append(problems, message.New("PropertyValueTypeError", string(compact(o[key])), path))
				continue
			}
			v[path] = value
		case slices.ContainsFunc(fields, func(f field) bool { return strings.HasPrefix(f.path, path+"/") }):
			inner, isObj := o[key].(obj)
			if !isObj {
				problems = append(problems, message.New("PropertyValueTypeError", string(compact(o[key])), path))
				continue
			}
			problems = append(problems, collect(inner, path+"/", fields, v)...)
		default:
			problems = append(problems, message.New("PropertyUnknown", key))
		}
	}
	return problems
}

func convert(raw any, k kind) (any, bool) {
	switch k {
	case textKind:
		s, fits := raw.(string)
		return s, fits
	case boolKind:
		b, fits := raw.(bool)
		return b, fits
	case intKind:
		n, isNumber := raw.(json.Number)
		i, err := n.Int64()
		return int(i), isNumber && err == nil
	case textsKind:
		return convertAll[string](raw)
	case objectsKind:
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

// compact is v as one line of JSON, as error messages quote it.
func compact(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		return []byte("null")
	}
	return text
}

package wire

import (
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// MaxRecord is the most bytes of one record, or of one event of an answer: a dump
// of the largest size and what was read with it. A coordinator takes twice that.
const MaxRecord = 2 << 20

// Fit makes m no larger than MaxRecord. A BMC may say a text of any length, and
// one record that no coordinator takes would hold back all that come after it.
// Long texts lose their end; if that is not enough, what was read is left out.
func Fit(m proto.Message) {
	for _, longest := range []int{16 << 10, 1 << 10} {
		if proto.Size(m) <= MaxRecord {
			return
		}
		clip(m.ProtoReflect(), longest)
	}
	if proto.Size(m) > MaxRecord {
		strip(m.ProtoReflect())
	}
}

// clip cuts every text in m that is longer than longest bytes.
func clip(m protoreflect.Message, longest int) {
	for fd, v := range m.Range {
		switch {
		case fd.Kind() == protoreflect.StringKind && !fd.IsList() && !fd.IsMap():
			if s := v.String(); len(s) > longest {
				m.Set(fd, protoreflect.ValueOfString(strings.ToValidUTF8(s[:longest], "")+"…"))
			}
		default:
			below(fd, v, func(sub protoreflect.Message) { clip(sub, longest) })
		}
	}
}

// strip leaves out what was read, wherever it is in m.
func strip(m protoreflect.Message) {
	for fd, v := range m.Range {
		switch fd.Name() {
		case "readings", "body":
			if fd.IsList() || fd.Kind() == protoreflect.BytesKind {
				m.Clear(fd)
				continue
			}
		}
		below(fd, v, strip)
	}
}

// below calls do with every message in a field.
func below(fd protoreflect.FieldDescriptor, v protoreflect.Value, do func(protoreflect.Message)) {
	switch {
	case fd.Kind() != protoreflect.MessageKind || fd.IsMap():
	case fd.IsList():
		for i := range v.List().Len() {
			do(v.List().Get(i).Message())
		}
	default:
		do(v.Message())
	}
}

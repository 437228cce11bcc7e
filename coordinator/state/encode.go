package state

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// part is how many bytes of a snapshot are encoded or decoded at a time.
const part = 1 << 20

// Write writes a snapshot as the one protobuf message that it is, field by field and
// element by element: what a million nodes take is never in memory a second time.
// The same snapshot is the same bytes.
func Write(w io.Writer, s *pb.Snapshot) error {
	e := encoder{w: w, buf: make([]byte, 0, part+part/4)}
	m := s.ProtoReflect()
	for i := range m.Descriptor().Fields().Len() {
		if fd := m.Descriptor().Fields().Get(i); m.Has(fd) {
			e.field(fd, m.Get(fd))
		}
	}
	e.flush()
	return e.err
}

// encoder gathers what goes to w.
type encoder struct {
	w   io.Writer
	buf []byte
	err error // the first
}

func (e *encoder) field(fd protoreflect.FieldDescriptor, v protoreflect.Value) {
	if !fd.IsList() {
		e.whole(fd, v)
		return
	}
	list := v.List()
	for i := range list.Len() {
		e.element(fd, list.Get(i))
	}
}

// element is one of a list, all of which are messages, bytes or strings.
func (e *encoder) element(fd protoreflect.FieldDescriptor, v protoreflect.Value) {
	e.buf = protowire.AppendTag(e.buf, fd.Number(), protowire.BytesType)
	switch fd.Kind() {
	case protoreflect.MessageKind:
		m := v.Message().Interface()
		e.buf = protowire.AppendVarint(e.buf, uint64(proto.Size(m)))
		e.message(m)
	case protoreflect.BytesKind:
		e.buf = protowire.AppendBytes(e.buf, v.Bytes())
	case protoreflect.StringKind:
		e.buf = protowire.AppendString(e.buf, v.String())
	default:
		e.keep(fmt.Errorf("encode snapshot: %s is a list of %s", fd.Name(), fd.Kind()))
	}
	if len(e.buf) >= part {
		e.flush()
	}
}

// whole is a field that is no list.
func (e *encoder) whole(fd protoreflect.FieldDescriptor, v protoreflect.Value) {
	only := &pb.Snapshot{}
	only.ProtoReflect().Set(fd, v)
	e.message(only)
}

func (e *encoder) message(m proto.Message) {
	buf, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(e.buf, m)
	e.keep(err)
	e.buf = buf
}

func (e *encoder) flush() {
	if e.err == nil {
		_, err := e.w.Write(e.buf)
		e.keep(err)
	}
	e.buf = e.buf[:0]
}

func (e *encoder) keep(err error) {
	if e.err == nil {
		e.err = err
	}
}

// Read reads what Write has written, up to the end of r. What it holds beside the
// snapshot is about one part and the largest element.
func Read(r io.Reader) (*pb.Snapshot, error) {
	d := decoder{r: bufio.NewReader(r)}
	s := &pb.Snapshot{}
	for {
		err := d.field()
		over := errors.Is(err, io.EOF)
		if err != nil && !over {
			return nil, fmt.Errorf("decode snapshot: %w", err)
		}
		if len(d.buf) >= part || over {
			if err := (proto.UnmarshalOptions{Merge: true}).Unmarshal(d.buf, s); err != nil {
				return nil, fmt.Errorf("decode snapshot: %w", err)
			}
			d.buf = d.buf[:0]
		}
		if over {
			return s, nil
		}
	}
}

// decoder gathers whole fields of a message, encoded as they came.
type decoder struct {
	r   *bufio.Reader
	buf []byte
}

// field is the next one; io.EOF if there is none.
func (d *decoder) field() error {
	tag, err := d.varint()
	if err != nil {
		return err
	}
	switch _, kind := protowire.DecodeTag(tag); kind {
	case protowire.VarintType:
		_, err = d.varint()
	case protowire.BytesType:
		var size uint64
		if size, err = d.varint(); err == nil {
			err = d.bytes(size)
		}
	default:
		err = fmt.Errorf("a field of kind %d, which none of a snapshot has", kind)
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF // in the middle of a field
	}
	return err
}

func (d *decoder) varint() (uint64, error) {
	v, err := binary.ReadUvarint(d.r)
	if err == nil {
		d.buf = protowire.AppendVarint(d.buf, v)
	}
	return v, err
}

// bytes takes size bytes. It believes in no more than what comes.
func (d *decoder) bytes(size uint64) error {
	for size > 0 {
		at, n := len(d.buf), int(min(size, part))
		d.buf = slices.Grow(d.buf, n)[:at+n]
		if _, err := io.ReadFull(d.r, d.buf[at:]); err != nil {
			return err
		}
		size -= uint64(n)
	}
	return nil
}

// Hash is a digest of the whole state: two machines of one version that have
// applied the same commands have the same. It costs an encoding of the state.
func (m *Machine) Hash() (string, error) { return HashOf(m.Snapshot()) }

// HashOf is the Hash of the state that a snapshot is of.
func HashOf(s *pb.Snapshot) (string, error) {
	sum := sha256.New()
	if err := Write(sum, s); err != nil {
		return "", fmt.Errorf("hash the state: %w", err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

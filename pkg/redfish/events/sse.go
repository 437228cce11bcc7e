package events

import (
	"bufio"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// maxFrame bounds one frame of a stream.
const maxFrame = 1 << 20

// frame is one message of an event stream (HTML standard, server-sent events).
type frame struct {
	id    string // "" if it carries none
	data  []byte
	retry time.Duration // the BMC's wish for the next connection, 0 if it has none
}

// frames reads an event stream.
type frames struct {
	in    *bufio.Reader
	alive func() // hears of every line, comments too
}

func newFrames(r io.Reader, alive func()) *frames {
	return &frames{in: bufio.NewReaderSize(r, 4<<10), alive: alive}
}

// next is the next frame with data. One that the stream ends in the middle of
// is dropped, as the standard demands.
func (f *frames) next() (frame, error) {
	var out frame
	size, some := 0, false
	for {
		line, err := f.line(maxFrame - size)
		if err != nil {
			return frame{}, err
		}
		f.alive()
		if line == "" {
			if some {
				return out, nil
			}
			size = 0
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		if name == "" { // a comment, which says that the BMC is there
			continue
		}
		size += len(line)
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "id":
			out.id = value
		case "data":
			if some {
				out.data = append(out.data, '\n')
			}
			out.data, some = append(out.data, value...), true
		case "retry":
			if ms, err := strconv.Atoi(value); err == nil && ms > 0 {
				out.retry = min(time.Duration(ms)*time.Millisecond, time.Minute)
			}
		}
	}
}

// line is the next line without its end, at most limit bytes.
func (f *frames) line(limit int) (string, error) {
	var b strings.Builder
	for {
		part, err := f.in.ReadSlice('\n')
		if b.Len()+len(part) > limit {
			return "", fault.New(fault.TooLarge, "read the event stream", "one event exceeds 1 MiB")
		}
		b.Write(part)
		switch {
		case err == nil:
			return strings.TrimRight(b.String(), "\r\n"), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return "", err
		}
	}
}

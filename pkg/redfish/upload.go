package redfish

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// Image is a firmware image. It is never held in memory.
type Image struct {
	Name string
	Size int64 // bytes; what Open gives beyond is not sent, less is an error
	// Open begins it anew: an upload may have to be sent twice.
	Open func() (io.ReadCloser, error)
}

// Upload is one firmware update by push (DSP2046, UpdateService).
type Upload struct {
	// URI is the service's MultipartHttpPushUri or, with Raw, its HttpPushUri.
	URI   string
	Raw   bool // the image alone, as application/octet-stream
	Image Image

	// Targets and ApplyTime are UpdateParameters; both may be empty. OpenBMC
	// wants exactly one target, its Manager or an image of its inventory (none is
	// answered with 500), and takes "Immediate" or "OnReset".
	Targets   []string
	ApplyTime string
	// Progress hears how many bytes were handed to the network; may be nil. It
	// must not block.
	Progress func(sent int64)
}

// An upload has time by its size: a BMC of the slow kind takes 256 KiB/s, and
// some check the image before they answer.
const (
	uploadRate  = 256 << 10
	uploadGrace = 5 * time.Minute
)

// deadline is how long an upload may take.
func (u Upload) deadline() time.Duration {
	return uploadGrace + time.Duration(u.Image.Size/uploadRate)*time.Second
}

// Upload streams an image to the BMC over a connection of its own, so that
// reads go on meanwhile, and returns the BMC's answer: with Reply.TaskOf the
// task that it began. It is sent again only after a 401, which is certain to
// have done nothing.
func (c *Client) Upload(ctx context.Context, u Upload) (*Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, u.deadline())
	defer cancel()
	if u.Image.Size <= 0 || u.Image.Open == nil {
		return nil, fault.New(fault.BadInput, "upload the image", "it is empty")
	}
	head, tail, contentType, err := u.frame()
	if err != nil {
		return nil, fmt.Errorf("frame the image: %w", err)
	}
	req := request{method: http.MethodPost, uri: u.URI, aside: true, contentType: contentType}
	req.size = int64(len(head)) + u.Image.Size + int64(len(tail))
	req.stream = func() (io.ReadCloser, error) {
		image, err := u.Image.Open()
		if err != nil {
			return nil, fmt.Errorf("open the image %s: %w", u.Image.Name, err)
		}
		whole := &exactly{from: image, left: u.Image.Size, progress: u.Progress}
		return readCloser{io.MultiReader(bytes.NewReader(head), whole, bytes.NewReader(tail)), image}, nil
	}
	return c.authed(ctx, req)
}

// frame is what goes before and after the image. The length of the whole is
// known, so that it need not be sent in chunks, which some BMCs do not take.
func (u Upload) frame() (head, tail []byte, contentType string, err error) {
	if u.Raw {
		return nil, nil, "application/octet-stream", nil
	}
	parameters := map[string]any{"Targets": u.Targets}
	if u.Targets == nil {
		parameters["Targets"] = []string{} // the member is required (DSP0266, 12.6)
	}
	if u.ApplyTime != "" {
		parameters["@Redfish.OperationApplyTime"] = u.ApplyTime
	}
	body, err := json.Marshal(parameters)
	if err != nil {
		return nil, nil, "", err
	}
	var buf bytes.Buffer
	w := multipart.NewWriter(&buf)
	part, err := w.CreatePart(textproto.MIMEHeader{
		"Content-Disposition": {`form-data; name="UpdateParameters"`}, "Content-Type": {"application/json"},
	})
	if err == nil {
		_, err = part.Write(body)
	}
	if err == nil {
		_, err = w.CreateFormFile("UpdateFile", u.Image.Name)
	}
	if err != nil {
		return nil, nil, "", err
	}
	head = bytes.Clone(buf.Bytes())
	buf.Reset()
	err = w.Close()
	return head, bytes.Clone(buf.Bytes()), w.FormDataContentType(), err
}

// exactly is the first left bytes of a reader; fewer are an error, for a BMC
// must not take half an image for a whole one.
type exactly struct {
	from     io.Reader
	left     int64
	sent     int64
	progress func(int64)
}

func (e *exactly) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n, err := e.from.Read(p[:min(int64(len(p)), e.left)])
	e.left -= int64(n)
	e.sent += int64(n)
	if n > 0 && e.progress != nil {
		e.progress(e.sent)
	}
	if errors.Is(err, io.EOF) {
		if e.left > 0 {
			return n, fault.New(fault.BadInput, "", fmt.Sprintf("the image is %d bytes shorter than it should be", e.left))
		}
		err = nil
	}
	return n, err
}

type readCloser struct {
	io.Reader
	io.Closer
}

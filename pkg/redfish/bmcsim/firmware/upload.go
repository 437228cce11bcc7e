package firmware

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"mime"
	"mime/multipart"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/input"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
)

// What an upload does in the end, if it is not taken in.
const (
	Refused = "refused" // it does not begin
	Invalid = "invalid" // it fails later
)

// Upload is what a client uploads: for the simulator, text that may begin with
// lines "purpose=bios", "version=2.19.0", "activation=invalid" or
// "activation=refused". Anything else is a good BMC image too.
type Upload struct {
	Image
	Activation string
}

// Read finds out what the client has uploaded.
func Read(data []byte) Upload {
	h := fnv.New64a()
	_, _ = h.Write(data)
	id := fmt.Sprintf("%08x", uint32(h.Sum64()))
	up := Upload{Image: Image{ID: "bmc_" + id, Version: "2.19.0-sim"}}
	head := data[:min(len(data), 4<<10)]
	for line := range bytes.Lines(head) {
		name, value, _ := strings.Cut(strings.TrimSpace(string(line)), "=")
		switch name {
		case "purpose":
			up.Bios = value == "bios"
		case "version":
			up.Version = value
		case "activation":
			up.Activation = value
		}
	}
	if up.Bios {
		up.ID = "bios_" + id
	}
	return up
}

// Parameters are the first part of a form.
type Parameters struct {
	Targets   []string
	ApplyTime string `json:"@Redfish.OperationApplyTime"`
}

// ErrParameters is the refusal of a form whose first part says nothing.
var ErrParameters = errors.New("the parameters name no target")

// Form reads a body of two parts: parameters, and an image, nil if it is not
// there.
func Form(contentType string, body []byte) (p Parameters, file []byte, err error) {
	text, file, err := parts(contentType, body)
	if err != nil {
		return p, nil, err
	}
	if text == nil || json.Unmarshal(text, &p) != nil || len(p.Targets) == 0 {
		return p, nil, ErrParameters
	}
	return p, file, nil
}

// parts are the texts of a form's two parts, nil where there is none.
func parts(contentType string, body []byte) (params, file []byte, err error) {
	mediaType, with, err := mime.ParseMediaType(contentType)
	if err != nil || mediaType != "multipart/form-data" {
		return nil, nil, fmt.Errorf("%q is no form", mediaType)
	}
	reader := multipart.NewReader(bytes.NewReader(body), with["boundary"])
	for {
		part, err := reader.NextPart()
		if err == io.EOF { //nolint:errorlint // the reader returns exactly this
			return params, file, nil
		}
		if err != nil {
			return nil, nil, err
		}
		text, err := io.ReadAll(part) // bounded by the body
		if err != nil {
			return nil, nil, err
		}
		switch part.FormName() {
		case "UpdateParameters":
			params = text
		case "UpdateFile":
			file = text
		}
	}
}

// FormProblem is what OpenBMC does not take of a form, nil if it takes it. Targets are
// the BMC at manager, or an image in the collection at uri.
func (f Flash) FormProblem(p Parameters, file []byte, uri, manager string) map[string]any {
	target := p.Targets[0]
	id, isFirmware := strings.CutPrefix(target, uri+"/")
	_, known := f.Image(id)
	switch {
	case file == nil:
		return message.New("PropertyMissing", "UpdateFile")
	case len(p.Targets) > 1:
		return message.New("PropertyValueFormatError", input.Compact(p.Targets), "Targets")
	case isFirmware && !known:
		return message.New("PropertyValueFormatError", message.Quoted(id), "Targets")
	case !isFirmware && target != manager:
		return message.New("PropertyValueFormatError", message.Quoted(target), "Targets")
	case p.ApplyTime != "" && p.ApplyTime != "Immediate" && p.ApplyTime != "OnReset":
		return message.New("PropertyValueNotInList", message.Quoted(p.ApplyTime), "ApplyTime")
	}
	return nil
}

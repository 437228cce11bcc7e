package bmcsim

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/auth"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/input"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/message"
)

// Firmware of the BMC and of its host at first start.
const (
	bmcVersion  = "2.18.0-sim"
	biosVersion = "SIM-BIOS-1.4.2"
	bmcID       = "bmc_a1b2c3d4"
	biosID      = "bios_e5f60718"

	updateURI   = "/redfish/v1/UpdateService"
	firmwareURI = updateURI + "/FirmwareInventory"
)

// firmware is an image in the BMC's flash.
type firmware struct {
	ID, Version string
	Bios        bool
	Next        bool // runs from the next restart on
}

// image is what a client uploads: for the simulator, text that may begin with
// lines "purpose=bios", "version=2.19.0", "activation=invalid" (the update
// fails later) or "activation=refused" (it does not begin). Anything else is a
// good BMC image too.
type image struct {
	firmware
	activation string
}

func readImage(data []byte) image {
	id := fmt.Sprintf("%08x", uint32(hash64(string(data))))
	img := image{firmware: firmware{ID: "bmc_" + id, Version: "2.19.0-sim"}}
	head := data[:min(len(data), 4<<10)]
	for line := range bytes.Lines(head) {
		name, value, _ := strings.Cut(strings.TrimSpace(string(line)), "=")
		switch name {
		case "purpose":
			img.Bios = value == "bios"
		case "version":
			img.Version = value
		case "activation":
			img.activation = value
		}
	}
	if img.Bios {
		img.ID = "bios_" + id
	}
	return img
}

func updateRoutes() []route {
	return []route{
		{path: updateURI, do: gets(getUpdateService)},
		{path: updateURI + "/update", do: posts(auth.ConfigureManager, pushImage)},
		{path: updateURI + "/update-multipart", do: posts(auth.ConfigureManager, pushForm)},
		{path: firmwareURI, do: gets(getFirmwares)},
		{path: firmwareURI + "/{image}", do: gets(getFirmware)},
	}
}

func getUpdateService(*BMC, *request) reply {
	return ok(obj{
		"@odata.id": updateURI, "@odata.type": "#UpdateService.v1_11_1.UpdateService",
		"Description": "Service for Software Update", "FirmwareInventory": link(firmwareURI),
		"HttpPushUri":        updateURI + "/update",
		"HttpPushUriOptions": obj{"HttpPushUriApplyTime": obj{"ApplyTime": "Immediate"}},
		"Id":                 "UpdateService", "MaxImageSizeBytes": maxBody, "MultipartHttpPushUri": updateURI + "/update-multipart",
		"Name": "Update Service", "ServiceEnabled": true,
	})
}

// pushImage takes a bare image, and nothing else.
func pushImage(b *BMC, q *request) reply {
	if q.header.Get("Content-Type") != "application/octet-stream" {
		return reply{status: http.StatusBadRequest}
	}
	return b.update(q, readImage(q.body), false)
}

// parameters are the first part of a form.
type parameters struct {
	Targets   []string
	ApplyTime string `json:"@Redfish.OperationApplyTime"`
}

// pushForm takes parameters and an image as a form.
func pushForm(b *BMC, q *request) reply {
	text, file, err := parts(q)
	if err != nil {
		return reply{status: http.StatusBadRequest}
	}
	var p parameters
	if text == nil || json.Unmarshal(text, &p) != nil || len(p.Targets) == 0 {
		return internalError()
	}
	if r := b.refuseUpdate(p, file); r != nil {
		return *r
	}
	img := readImage(file)
	img.Bios = img.Bios || strings.HasPrefix(p.Targets[0], firmwareURI+"/bios_")
	return b.update(q, img, p.ApplyTime == "OnReset")
}

// parts are the texts of a form's two parts, nil where there is none.
func parts(q *request) (params, file []byte, err error) {
	mediaType, with, err := mime.ParseMediaType(q.header.Get("Content-Type"))
	if err != nil || mediaType != "multipart/form-data" {
		return nil, nil, fmt.Errorf("%q is no form", mediaType)
	}
	reader := multipart.NewReader(bytes.NewReader(q.body), with["boundary"])
	for {
		part, err := reader.NextPart()
		if err == io.EOF { //nolint:errorlint // the reader returns exactly this
			return params, file, nil
		}
		if err != nil {
			return nil, nil, err
		}
		text, err := io.ReadAll(part) // bounded by the request's body
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

func (b *BMC) refuseUpdate(p parameters, file []byte) *reply {
	target := p.Targets[0]
	id, isFirmware := strings.CutPrefix(target, firmwareURI+"/")
	var r reply
	switch {
	case file == nil:
		r = badRequest("PropertyMissing", "UpdateFile")
	case len(p.Targets) > 1:
		r = badRequest("PropertyValueFormatError", input.Compact(p.Targets), "Targets")
	case isFirmware && !slices.ContainsFunc(b.state.Firmware, func(f firmware) bool { return f.ID == id }):
		r = badRequest("PropertyValueFormatError", message.Quoted(id), "Targets")
	case !isFirmware && target != managerURI:
		r = badRequest("PropertyValueFormatError", message.Quoted(target), "Targets")
	case p.ApplyTime != "" && p.ApplyTime != "Immediate" && p.ApplyTime != "OnReset":
		r = badRequest("PropertyValueNotInList", message.Quoted(p.ApplyTime), "ApplyTime")
	default:
		return nil
	}
	return &r
}

// update begins the task that takes an image in.
func (b *BMC) update(q *request, img image, onReset bool) reply {
	took := b.cfg.UpdateTime
	switch img.activation {
	case "refused":
		return internalError()
	case "invalid":
		id := strconv.Itoa(b.nextTask)
		return b.begin(q, nil, []step{{after: took / 8, percent: -1, message: message.Task("TaskAborted", id), state: "Exception"}})
	}
	plan := make([]step, 0, 9)
	for i, percent := range []int{10, 25, 40, 55, 70, 85, 100} {
		plan = append(plan, step{after: took * time.Duration(i+1) / 8, percent: percent})
	}
	arrived := step{after: took, percent: 100, effect: func(*task) { b.takeIn(img.firmware, onReset) }}
	id := strconv.Itoa(b.nextTask)
	return b.begin(q, nil, append(plan, arrived,
		step{after: took, percent: -1, message: message.Task("TaskCompletedOK", id), state: "Completed"}))
}

// takeIn puts an image into the flash. It runs after the next restart of what
// it is for; a BMC image that is to be applied at once restarts the BMC, which
// takes no time if Config.ResetTime is none.
func (b *BMC) takeIn(f firmware, onReset bool) {
	f.Next = true
	list := slices.DeleteFunc(slices.Clone(b.state.Firmware), func(x firmware) bool { return x.ID == f.ID })
	for i := range list {
		list[i].Next = list[i].Next && list[i].Bios != f.Bios
	}
	list = append(list, f)
	b.state.Firmware = list
	if !f.Bios && !onReset {
		b.restart(b.cfg.Now())
	}
}

// activate makes the newest image run, of the BMC or of its host.
func (b *BMC) activate(bios bool) {
	i := slices.IndexFunc(b.state.Firmware, func(f firmware) bool { return f.Next && f.Bios == bios })
	if i < 0 {
		return
	}
	list := slices.Clone(b.state.Firmware)
	list[i].Next = false
	b.state.Firmware = list
	if bios {
		b.state.RunningBios = list[i].ID
	} else {
		b.state.RunningBMC = list[i].ID
	}
}

// running is the image that runs now.
func (b *BMC) running(bios bool) firmware {
	id := b.state.RunningBMC
	if bios {
		id = b.state.RunningBios
	}
	for _, f := range b.state.Firmware {
		if f.ID == id {
			return f
		}
	}
	return firmware{ID: id}
}

func factoryFirmware() []firmware {
	return []firmware{{ID: bmcID, Version: bmcVersion}, {ID: biosID, Version: biosVersion, Bios: true}}
}

func (b *BMC) firmwareIDs(only func(firmware) bool) []string {
	var ids []string
	for _, f := range b.state.Firmware {
		if only == nil || only(f) {
			ids = append(ids, f.ID)
		}
	}
	slices.SortFunc(ids, cmp.Compare[string])
	return ids
}

func getFirmwares(b *BMC, _ *request) reply {
	return collection(firmwareURI, "SoftwareInventoryCollection", "Software Inventory Collection", b.firmwareIDs(nil), nil)
}

// getFirmware answers an unknown image with 400, as bmcweb does.
func getFirmware(b *BMC, q *request) reply {
	id := q.args["image"]
	i := slices.IndexFunc(b.state.Firmware, func(f firmware) bool { return f.ID == id })
	if i < 0 {
		return badRequest("ResourceMissingAtURI", firmwareURI+"/"+id)
	}
	f := b.state.Firmware[i]
	description, item := "BMC image", managerURI
	if f.Bios {
		description, item = "Host image", systemURI+"/Bios"
	}
	return ok(obj{
		"@odata.id": firmwareURI + "/" + id, "@odata.type": "#SoftwareInventory.v1_1_0.SoftwareInventory",
		"Description": description, "Id": id, "Name": "Software Inventory",
		"RelatedItem": []obj{link(item)}, "RelatedItem@odata.count": 1,
		"Status":     obj{"Health": "OK", "HealthRollup": "OK", "State": "Enabled"},
		"Updateable": true, "Version": f.Version,
	})
}

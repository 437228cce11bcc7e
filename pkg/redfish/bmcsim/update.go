package bmcsim

import (
	"errors"
	"net/http"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/auth"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/firmware"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/hardware"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/tasks"
)

const (
	updateURI   = "/redfish/v1/UpdateService"
	firmwareURI = updateURI + "/FirmwareInventory"
)

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
		"Description": "Service for Software Update", "FirmwareInventory": hardware.Link(firmwareURI),
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
	return b.update(q, firmware.Read(q.body), false)
}

// pushForm takes parameters and an image as a form.
func pushForm(b *BMC, q *request) reply {
	p, file, err := firmware.Form(q.header.Get("Content-Type"), q.body)
	switch {
	case errors.Is(err, firmware.ErrParameters):
		return internalError()
	case err != nil:
		return reply{status: http.StatusBadRequest}
	}
	if problem := b.state.FormProblem(p, file, firmwareURI, managerURI); problem != nil {
		return failure(http.StatusBadRequest, problem)
	}
	up := firmware.Read(file)
	up.Bios = up.Bios || strings.HasPrefix(p.Targets[0], firmwareURI+"/bios_")
	return b.update(q, up, p.ApplyTime == "OnReset")
}

// update begins the task that takes an image in. A BMC image that is to be
// applied at once restarts the BMC, which takes no time if Config.ResetTime is
// none.
func (b *BMC) update(q *request, up firmware.Upload, onReset bool) reply {
	switch up.Activation {
	case firmware.Refused:
		return internalError()
	case firmware.Invalid:
		return b.begin(q, nil, tasks.Failure(b.cfg.UpdateTime))
	}
	return b.begin(q, nil, tasks.Progress(b.cfg.UpdateTime, func(*tasks.Task) {
		b.state.TakeIn(up.Image)
		if !up.Bios && !onReset {
			b.restart(b.cfg.Now())
		}
	}))
}

func getFirmwares(b *BMC, _ *request) reply {
	return collection(firmwareURI, "SoftwareInventoryCollection", "Software Inventory Collection", b.state.Images(), nil)
}

// getFirmware answers an unknown image with 400, as bmcweb does.
func getFirmware(b *BMC, q *request) reply {
	id := q.args["image"]
	img, found := b.state.Image(id)
	if !found {
		return badRequest("ResourceMissingAtURI", firmwareURI+"/"+id)
	}
	item := managerURI
	if img.Bios {
		item = systemURI + "/Bios"
	}
	return ok(img.Body(firmwareURI, item))
}

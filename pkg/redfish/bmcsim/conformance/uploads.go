package main

import (
	"encoding/json"
	"strings"
)

const boundary = "----test-boundary-123" // as in the recorded Content-Type

// body is the request's body as we send it: with our certificates for theirs,
// our ids, and images of our own, because the recording kept only their sizes.
func (r *replayer) body(rec recording) (string, error) {
	text := rec.body()
	if strings.HasPrefix(text, "<") && strings.HasSuffix(text, " bytes>") {
		return upload(rec), nil
	}
	if strings.Contains(text, "-----BEGIN") {
		return r.twins.body(rec, text)
	}
	return r.translate(text), nil
}

// upload is an image, or a form with one, by what the exchange was about.
func upload(rec recording) string {
	const fine = "purpose=bmc\nversion=2.19.0\n"
	switch {
	case rec.group == "A_protocol":
		return strings.Repeat("x", 31<<20)
	case !strings.Contains(rec.Request.Headers["Content-Type"], "multipart"):
		return fine
	}
	_, what, _ := strings.Cut(rec.name, "_Multipart_")
	params, file := map[string]any{"Targets": []string{"/redfish/v1/Managers/bmc"}}, fine
	switch what {
	case "target_fw_id":
		params["Targets"] = []string{"/redfish/v1/UpdateService/FirmwareInventory/bmc_a1b2c3d4"}
	case "target_manager_OnReset":
		params["@Redfish.OperationApplyTime"] = "OnReset"
	case "no_target":
		delete(params, "Targets")
	case "bad_target":
		params["Targets"] = []string{"/redfish/v1/Nope"}
	case "unknown_fw_target":
		params["Targets"] = []string{"/redfish/v1/UpdateService/FirmwareInventory/nope"}
	case "bad_applytime":
		params["@Redfish.OperationApplyTime"] = "Someday"
	case "no_file":
		file = ""
	case "no_params":
		params = nil
	case "image_that_fails_activation":
		file += "activation=invalid\n"
	case "image_refused_at_start":
		file += "activation=refused\n"
	}
	return form(params, file)
}

func form(params map[string]any, file string) string {
	var s strings.Builder
	if params != nil {
		text, _ := json.Marshal(params) // a map of texts can be encoded
		s.WriteString("--" + boundary + "\r\nContent-Disposition: form-data; name=\"UpdateParameters\"\r\nContent-Type: application/json\r\n\r\n")
		s.Write(text)
		s.WriteString("\r\n")
	}
	if file != "" {
		s.WriteString("--" + boundary + "\r\nContent-Disposition: form-data; name=\"UpdateFile\"; filename=\"image.tar\"\r\nContent-Type: application/octet-stream\r\n\r\n")
		s.WriteString(file + "\r\n")
	}
	s.WriteString("--" + boundary + "--\r\n")
	return s.String()
}

package firmware

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	inventory = "/redfish/v1/UpdateService/FirmwareInventory"
	manager   = "/redfish/v1/Managers/bmc"
)

// show writes the flash as "bmc RUNNING bios RUNNING: id id*", * being next.
func show(f Flash) string {
	var ids []string
	for _, img := range f.Firmware {
		ids = append(ids, img.ID+strings.Repeat("*", map[bool]int{true: 1}[img.Next]))
	}
	return fmt.Sprintf("bmc %s bios %s: %s", f.Running(false).ID, f.Running(true).ID, strings.Join(ids, " "))
}

func TestImagesRunAfterARestart(t *testing.T) {
	const a, b = "bmc_a1b2c3d4", "bios_e5f60718"
	bmc := func(id string) func(*Flash) { return func(f *Flash) { f.TakeIn(Image{ID: id, Version: "1"}) } }
	bios := func(id string) func(*Flash) {
		return func(f *Flash) { f.TakeIn(Image{ID: id, Version: "1", Bios: true}) }
	}
	boot := func(bios bool) func(*Flash) { return func(f *Flash) { f.Activate(bios) } }
	for _, tt := range []struct {
		name  string
		steps []func(*Flash)
		want  string
	}{
		{"factory", nil, "bmc " + a + " bios " + b + ": " + a + " " + b},
		{"a restart with nothing new", []func(*Flash){boot(false), boot(true)}, "bmc " + a + " bios " + b + ": " + a + " " + b},
		{"a new one waits", []func(*Flash){bmc("n")}, "bmc " + a + " bios " + b + ": " + a + " " + b + " n*"},
		{"and runs", []func(*Flash){bmc("n"), boot(false)}, "bmc n bios " + b + ": " + a + " " + b + " n"},
		{"the host's restart is not the BMC's", []func(*Flash){bmc("n"), boot(true)}, "bmc " + a + " bios " + b + ": " + a + " " + b + " n*"},
		{"of the host", []func(*Flash){bios("n"), boot(true)}, "bmc " + a + " bios n: " + a + " " + b + " n"},
		{"the later one wins", []func(*Flash){bmc("n"), bmc("m"), boot(false)}, "bmc m bios " + b + ": " + a + " " + b + " n m"},
		{"one for each waits", []func(*Flash){bmc("n"), bios("m")}, "bmc " + a + " bios " + b + ": " + a + " " + b + " n* m*"},
		{"the same again", []func(*Flash){bmc("n"), bmc("n")}, "bmc " + a + " bios " + b + ": " + a + " " + b + " n*"},
		{"back to the first", []func(*Flash){bmc("n"), boot(false), bmc(a), boot(false)}, "bmc " + a + " bios " + b + ": " + b + " n " + a},
	} {
		f := Factory()
		for _, step := range tt.steps {
			step(&f)
		}
		if got := show(f); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestCopiesShareNothing(t *testing.T) {
	for name, change := range map[string]func(*Flash){
		"take in":  func(f *Flash) { f.TakeIn(Image{ID: "x"}) },
		"activate": func(f *Flash) { f.Activate(false) },
	} {
		f := Factory()
		f.TakeIn(Image{ID: "n"})
		before := show(f)
		other := f
		change(&other)
		if show(f) != before || show(other) == before {
			t.Errorf("%s: %s and %s", name, show(f), show(other))
		}
	}
}

func TestLookingUp(t *testing.T) {
	f := Factory()
	f.TakeIn(Image{ID: "a_new"})
	if diff := cmp.Diff([]string{"a_new", bmcID}, f.ImagesOf(false)); diff != "" {
		t.Errorf("of the BMC (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{biosID}, f.ImagesOf(true)); diff != "" {
		t.Errorf("of the host (-want +got):\n%s", diff)
	}
	if ids := f.Images(); len(ids) != 3 || !slices.IsSorted(ids) {
		t.Errorf("all are %v", ids)
	}
	if _, found := f.Image("x"); found {
		t.Error("an unknown image is found")
	}
	f.RunningBMC = "gone"
	if got := f.Running(false); got != (Image{ID: "gone"}) {
		t.Errorf("running is %+v", got)
	}
}

func TestBody(t *testing.T) {
	for _, tt := range []struct {
		img  Image
		want string
	}{
		{Image{ID: "bmc_1", Version: "2"}, "BMC image"}, {Image{ID: "bios_1", Version: "2", Bios: true}, "Host image"},
	} {
		got := tt.img.Body("/fw", "/item")
		if got["Description"] != tt.want || got["@odata.id"] != "/fw/"+tt.img.ID || got["Version"] != "2" || got["Updateable"] != true {
			t.Errorf("%+v is %v", tt.img, got)
		}
		if text, err := json.Marshal(got["RelatedItem"]); err != nil || string(text) != `[{"@odata.id":"/item"}]` {
			t.Errorf("it is for %s %v", text, err)
		}
	}
}

func TestUploads(t *testing.T) {
	for _, tt := range []struct {
		name, data string
		want       Upload
	}{
		{"anything is a good BMC image", "\x00\x01binary", Upload{Image: Image{Version: "2.19.0-sim"}}},
		{"nothing too", "", Upload{Image: Image{Version: "2.19.0-sim"}}},
		{"a version", "version=3.0\nrest", Upload{Image: Image{Version: "3.0"}}},
		{"for the host", "purpose=bios\r\nversion=9\r\n", Upload{Image: Image{Version: "9", Bios: true}}},
		{"another purpose", "purpose=psu\n", Upload{Image: Image{Version: "2.19.0-sim"}}},
		{"one that fails", "activation=invalid", Upload{Image: Image{Version: "2.19.0-sim"}, Activation: Invalid}},
		{"one that is refused", "version=1\n activation=refused \n", Upload{Image: Image{Version: "1"}, Activation: Refused}},
		{"only the head is read", strings.Repeat("x\n", 2<<10) + "version=1\n", Upload{Image: Image{Version: "2.19.0-sim"}}},
	} {
		got := Read([]byte(tt.data))
		prefix := map[bool]string{true: "bios_", false: "bmc_"}[tt.want.Bios]
		if rest, found := strings.CutPrefix(got.ID, prefix); !found || len(rest) != 8 {
			t.Errorf("%s: id %s", tt.name, got.ID)
		}
		got.ID = ""
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	if Read([]byte("a")).ID == Read([]byte("b")).ID {
		t.Error("two images have one id")
	}
}

const formType = "multipart/form-data; boundary=B"

// form has the parts that are given as "name=text".
func form(parts ...string) string {
	var s strings.Builder
	for _, part := range parts {
		name, text, _ := strings.Cut(part, "=")
		fmt.Fprintf(&s, "--B\r\nContent-Disposition: form-data; name=%q\r\n\r\n%s\r\n", name, text)
	}
	return s.String() + "--B--\r\n"
}

func TestForms(t *testing.T) {
	const good = `UpdateParameters={"Targets":["` + manager + `"],"@Redfish.OperationApplyTime":"OnReset"}`
	for _, tt := range []struct {
		name, contentType, body string
		file                    string
		none, named             bool // no form at all; a form that names no target
	}{
		{name: "whole", contentType: formType, body: form(good, "UpdateFile=image"), file: "image"},
		{name: "the other way round", contentType: formType, body: form("UpdateFile=image", good), file: "image"},
		{name: "other parts", contentType: formType, body: form("x=y", good, "UpdateFile=image"), file: "image"},
		{name: "no file", contentType: formType, body: form(good)},
		{name: "no parameters", contentType: formType, body: form("UpdateFile=image"), named: true},
		{name: "no target", contentType: formType, body: form(`UpdateParameters={"Targets":[]}`, "UpdateFile=image"), named: true},
		{name: "no JSON", contentType: formType, body: form("UpdateParameters=x", "UpdateFile=image"), named: true},
		{name: "no form", contentType: "application/octet-stream", body: form(good), none: true},
		{name: "no type", body: form(good), none: true},
		{name: "another boundary", contentType: "multipart/form-data; boundary=C", body: form(good), none: true},
		{name: "cut off in a file", contentType: formType, body: strings.TrimSuffix(form(good, "UpdateFile=image"), "--B--\r\n"), none: true},
		{name: "cut off before all parts", contentType: formType, body: form(good)[:40], named: true},
	} {
		p, file, err := Form(tt.contentType, []byte(tt.body))
		if errors.Is(err, ErrParameters) != tt.named || (err != nil) != (tt.none || tt.named) {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if err == nil && (string(file) != tt.file || p.Targets[0] != manager || p.ApplyTime != "OnReset") {
			t.Errorf("%s: %+v, file %q", tt.name, p, file)
		}
	}
}

func TestProblemsOfForms(t *testing.T) {
	for _, tt := range []struct {
		name string
		p    Parameters
		file string
		want string
	}{
		{"the BMC", Parameters{Targets: []string{manager}}, "x", ""},
		{"an image", Parameters{Targets: []string{inventory + "/" + biosID}, ApplyTime: "Immediate"}, "x", ""},
		{"no file", Parameters{Targets: []string{manager}}, "", "PropertyMissing [UpdateFile]"},
		{"two targets", Parameters{Targets: []string{manager, "x"}}, "x", `PropertyValueFormatError [["` + manager + `","x"] Targets]`},
		{"an unknown image", Parameters{Targets: []string{inventory + "/x"}}, "x", `PropertyValueFormatError ["x" Targets]`},
		{"an unknown target", Parameters{Targets: []string{"/x"}}, "x", `PropertyValueFormatError ["/x" Targets]`},
		{"an unknown time", Parameters{Targets: []string{manager}, ApplyTime: "Now"}, "x", `PropertyValueNotInList ["Now" ApplyTime]`},
	} {
		var file []byte
		if tt.file != "" {
			file = []byte(tt.file)
		}
		got := ""
		if m := Factory().FormProblem(tt.p, file, inventory, manager); m != nil {
			got = strings.TrimPrefix(fmt.Sprint(m["MessageId"], " ", m["MessageArgs"]), "Base.1.19.")
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

// Whatever is uploaded, it is read or refused, and a file is a part of the body.
func FuzzForm(f *testing.F) {
	f.Add(formType, []byte(form(`UpdateParameters={"Targets":["x"]}`, "UpdateFile=image")))
	f.Add("multipart/form-data", []byte("--\r\n"))
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		p, file, err := Form(contentType, body)
		if err == nil && len(p.Targets) == 0 {
			t.Error("a form without a target is taken")
		}
		if len(file) > len(body) {
			t.Errorf("a file of %d bytes in a body of %d", len(file), len(body))
		}
		if up := Read(file); up.Bios != strings.HasPrefix(up.ID, "bios_") {
			t.Errorf("%+v", up)
		}
	})
}

// The names are those of the state file, which older simulators wrote too.
func TestTheFlashAsItIsKept(t *testing.T) {
	f := Factory()
	text, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"Firmware":[{"ID":"bmc_a1b2c3d4","Version":"2.18.0-sim","Bios":false,"Next":false},` +
		`{"ID":"bios_e5f60718","Version":"SIM-BIOS-1.4.2","Bios":true,"Next":false}],` +
		`"RunningBMC":"bmc_a1b2c3d4","RunningBios":"bios_e5f60718"}`
	if string(text) != want {
		t.Errorf("%s, want %s", text, want)
	}
}

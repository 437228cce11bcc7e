// Package firmware is what is in a BMC's flash, which image runs from when on, and
// what a client uploads to change it. It is pure.
package firmware

import "slices"

// The images at first start.
const (
	bmcVersion  = "2.18.0-sim"
	biosVersion = "SIM-BIOS-1.4.2"
	bmcID       = "bmc_a1b2c3d4"
	biosID      = "bios_e5f60718"
)

// Image is firmware of the BMC or of its host.
type Image struct {
	ID, Version string
	Bios        bool
	Next        bool // runs from the next restart on
}

// Flash are the images that a BMC has and those that run. Copies share nothing
// that changes.
type Flash struct {
	Firmware                []Image
	RunningBMC, RunningBios string // ids in Firmware
}

// Factory is the flash of a new BMC.
func Factory() Flash {
	return Flash{
		Firmware:   []Image{{ID: bmcID, Version: bmcVersion}, {ID: biosID, Version: biosVersion, Bios: true}},
		RunningBMC: bmcID, RunningBios: biosID,
	}
}

// TakeIn puts an image into the flash, instead of one that waits for the next
// restart of the same thing.
func (f *Flash) TakeIn(img Image) {
	img.Next = true
	list := slices.DeleteFunc(slices.Clone(f.Firmware), func(x Image) bool { return x.ID == img.ID })
	for i := range list {
		list[i].Next = list[i].Next && list[i].Bios != img.Bios
	}
	list = append(list, img)
	f.Firmware = list
}

// Activate makes the newest image run, of the BMC or of its host.
func (f *Flash) Activate(bios bool) {
	i := slices.IndexFunc(f.Firmware, func(x Image) bool { return x.Next && x.Bios == bios })
	if i < 0 {
		return
	}
	f.Firmware = slices.Clone(f.Firmware)
	f.Firmware[i].Next = false
	if bios {
		f.RunningBios = f.Firmware[i].ID
	} else {
		f.RunningBMC = f.Firmware[i].ID
	}
}

// Running is the image that runs now.
func (f Flash) Running(bios bool) Image {
	id := f.RunningBMC
	if bios {
		id = f.RunningBios
	}
	if img, found := f.Image(id); found {
		return img
	}
	return Image{ID: id}
}

// Image is the one with an id.
func (f Flash) Image(id string) (Image, bool) {
	for _, img := range f.Firmware {
		if img.ID == id {
			return img, true
		}
	}
	return Image{}, false
}

// Images are the ids of all images, in order.
func (f Flash) Images() []string { return f.ids(func(Image) bool { return true }) }

// ImagesOf are the ids of those of the BMC or of its host, in order.
func (f Flash) ImagesOf(bios bool) []string {
	return f.ids(func(img Image) bool { return img.Bios == bios })
}

func (f Flash) ids(which func(Image) bool) (ids []string) {
	for _, img := range f.Firmware {
		if which(img) {
			ids = append(ids, img.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// Body is the image as a member of the collection at uri; item is what it is for.
func (img Image) Body(uri, item string) map[string]any {
	description := "BMC image"
	if img.Bios {
		description = "Host image"
	}
	return map[string]any{
		"@odata.id": uri + "/" + img.ID, "@odata.type": "#SoftwareInventory.v1_1_0.SoftwareInventory",
		"Description": description, "Id": img.ID, "Name": "Software Inventory",
		"RelatedItem": []map[string]any{{"@odata.id": item}}, "RelatedItem@odata.count": 1,
		"Status":     map[string]any{"Health": "OK", "HealthRollup": "OK", "State": "Enabled"},
		"Updateable": true, "Version": img.Version,
	}
}

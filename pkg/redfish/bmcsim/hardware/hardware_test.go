package hardware

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func server() Server {
	return Server{
		Serial: "SIM1", CPUs: 2, DIMMs: 3, Fans: 4,
		Drives: []Drive{{ID: "sda", Bytes: 480e9, Media: "SSD", Model: "PM893"}, {ID: "sdb"}},
		PCIe:   []PCIe{{ID: "nic0", Manufacturer: "Mellanox", Model: "CX6", Part: "MCX"}},
	}
}

func TestNames(t *testing.T) {
	for _, tt := range []struct {
		name string
		got  []string
		want string
	}{
		{"processors", server().Processors(), "cpu0 cpu1"},
		{"memory", server().DIMMSlots(), "dimm0 dimm1 dimm2"},
		{"fans", server().FanNames(), "fan0 fan1 fan2 fan3"},
		{"supplies", server().Supplies(), "powersupply0 powersupply1"},
		{"storages", server().Storages(), "storage0"},
		{"storages without a drive", Server{}.Storages(), ""},
		{"drives", server().DriveNames(), "sda sdb"},
		{"cards", server().CardNames(), "nic0"},
		{"cards of none", Server{}.CardNames(), ""},
	} {
		if got := strings.Join(tt.got, " "); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	if s := server(); s.GiB() != 96 || s.Cores() != 64 {
		t.Errorf("%d GiB and %d cores", s.GiB(), s.Cores())
	}
}

// Every part says who it is and where, and has a serial number of its own.
func TestParts(t *testing.T) {
	s, serials := server(), map[any]string{}
	for _, tt := range []struct {
		kind string
		ids  []string
		body func(string) (obj, bool)
		uri  string
	}{
		{"Processor", s.Processors(), s.Processor, ProcessorsURI},
		{"Memory", s.DIMMSlots(), s.Memory, MemoryURI},
		{"PowerSupply", s.Supplies(), s.Supply, SuppliesURI},
		{"Fan", s.FanNames(), s.Fan, FansURI},
		{"Storage", s.Storages(), s.Storage, SystemURI + "/Storage"},
		{"Drive", s.DriveNames(), s.Drive, DrivesURI},
		{"PCIeDevice", s.CardNames(), s.Card, CardsURI},
	} {
		for _, id := range tt.ids {
			o, found := tt.body(id)
			if !found || o["Id"] != id || o["@odata.id"] != tt.uri+"/"+id || !strings.HasPrefix(fmt.Sprint(o["@odata.type"]), "#"+tt.kind+".v1_") {
				t.Errorf("%s %s: %v", tt.kind, id, o)
			}
			if diff := cmp.Diff(obj{"Health": "OK", "State": "Enabled"}, o["Status"]); diff != "" {
				t.Errorf("%s %s (-want +got):\n%s", tt.kind, id, diff)
			}
			if serial, has := o["SerialNumber"]; has && serials[serial] != "" || !has && tt.kind != "Storage" {
				t.Errorf("%s %s has the serial number %v, as %s", tt.kind, id, serial, serials[serial])
			} else {
				serials[serial] = tt.kind + " " + id
			}
		}
		for _, id := range []string{"", "x", "cpu2", "cpu-1", "dimm3", "powersupply2", "fan4", "storage1", "sdc", "nic1", "CPU0"} {
			if o, found := tt.body(id); found || o != nil {
				t.Errorf("there is a %s %q", tt.kind, id)
			}
		}
	}
}

func TestWhatPartsSay(t *testing.T) {
	s := server()
	cpu, _ := s.Processor("cpu1")
	dimm, _ := s.Memory("dimm2")
	drive, _ := s.Drive("sda")
	card, _ := s.Card("nic0")
	storage, _ := s.Storage("storage0")
	supply, _ := s.Supply("powersupply1")
	fan, _ := s.Fan("fan3")
	for _, tt := range []struct {
		of    obj
		name  string
		value any
	}{
		{cpu, "Socket", "CPU1"},
		{cpu, "TotalCores", 32},
		{cpu, "TotalThreads", 64},
		{cpu, "SerialNumber", "SIM1-CPU01"},
		{cpu, "Location", Label("P0-C1")},
		{cpu, "SubProcessors", Link(ProcessorsURI + "/cpu1/SubProcessors")},
		{dimm, "CapacityMiB", 32768},
		{dimm, "MemoryDeviceType", "DDR5"},
		{dimm, "Location", Label("P0-C12")},
		{drive, "CapacityBytes", int64(480e9)},
		{drive, "MediaType", "SSD"},
		{drive, "Model", "PM893"},
		{drive, "Links", obj{"Chassis": Link(ChassisURI)}},
		{card, "Manufacturer", "Mellanox"},
		{card, "PartNumber", "MCX"},
		{storage, "Drives", []obj{Link(DrivesURI + "/sda"), Link(DrivesURI + "/sdb")}},
		{storage, "Drives@odata.count", 2},
		{supply, "Location", Label("E1")},
		{supply, "Model", "DPS-1600"},
		{fan, "Location", Label("A3")},
	} {
		if diff := cmp.Diff(tt.value, tt.of[tt.name]); diff != "" {
			t.Errorf("%v: %s (-want +got):\n%s", tt.of["@odata.id"], tt.name, diff)
		}
	}
	if _, found := (Server{}).Storage("storage0"); found {
		t.Error("there is a controller without drives")
	}
}

func TestLinks(t *testing.T) {
	if diff := cmp.Diff([]map[string]any{{"@odata.id": "/a/x"}, {"@odata.id": "/a/y"}}, Links("/a", []string{"x", "y"})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := Links("/a", nil); got == nil || len(got) != 0 { // in JSON a list, not null
		t.Errorf("no ids are %v", got)
	}
}

// Addresses are local ones, the same at each start, and differ between
// interfaces and servers.
func TestMACs(t *testing.T) {
	seen := map[string]bool{}
	for _, serial := range []string{"SIM1", "SIM2", ""} {
		for n := 1; n <= 2; n++ {
			text := MAC(serial, n)
			address, err := net.ParseMAC(text)
			if err != nil || address[0] != 2 || seen[text] || MAC(serial, n) != text {
				t.Errorf("%s of %q: %v", text, serial, err)
			}
			seen[text] = true
		}
	}
}

func TestStaticAddresses(t *testing.T) {
	const format, missing = "PropertyValueFormatError", "PropertyMissing"
	at := func(name string) string { return "IPv4StaticAddresses/1/" + name }
	for _, tt := range []struct {
		name string
		list []map[string]any
		want NIC
		told string
	}{
		{"whole", []map[string]any{{"Address": "10.0.0.2", "SubnetMask": "255.0.0.0", "Gateway": "10.0.0.1"}}, NIC{"10.0.0.2", "255.0.0.0", "10.0.0.1", false}, ""},
		{"the gateway may be left", []map[string]any{{"Address": "10.0.0.2", "SubnetMask": "255.0.0.0"}}, NIC{"10.0.0.2", "255.0.0.0", "1.1.1.1", false}, ""},
		{"only the first counts", []map[string]any{{"Address": "10.0.0.2", "SubnetMask": "255.0.0.0"}, {"Address": "x"}}, NIC{"10.0.0.2", "255.0.0.0", "1.1.1.1", false}, ""},
		{"an empty list changes nothing", nil, NIC{"1.1.1.2", "255.255.0.0", "1.1.1.1", true}, ""},
		{"no address", []map[string]any{{"SubnetMask": "255.0.0.0"}}, NIC{}, missing + " " + at("Address")},
		{"no mask", []map[string]any{{"Address": "10.0.0.2"}}, NIC{}, missing + " " + at("SubnetMask")},
		{"a null gateway", []map[string]any{{"Address": "10.0.0.2", "SubnetMask": "255.0.0.0", "Gateway": nil}}, NIC{}, missing + " " + at("Gateway")},
		{"no such address", []map[string]any{{"Address": "10.0.0.256", "SubnetMask": "255.0.0.0"}}, NIC{}, format + ` "10.0.0.256" ` + at("Address")},
		{"one of version 6", []map[string]any{{"Address": "::1", "SubnetMask": "255.0.0.0"}}, NIC{}, format + ` "::1" ` + at("Address")},
		{"a number", []map[string]any{{"Address": 5, "SubnetMask": "255.0.0.0"}}, NIC{}, format + " 5 " + at("Address")},
		{"a bad mask", []map[string]any{{"Address": "10.0.0.2", "SubnetMask": "/8"}}, NIC{}, format + ` "/8" ` + at("SubnetMask")},
	} {
		n := NIC{"1.1.1.2", "255.255.0.0", "1.1.1.1", true}
		problem, told := n.SetStatic(tt.list), ""
		if problem != nil {
			args, _ := problem["MessageArgs"].([]string)
			told = strings.TrimPrefix(fmt.Sprint(problem["MessageId"]), "Base.1.19.") + " " + strings.Join(args, " ")
		}
		if told != tt.told || problem == nil && n != tt.want {
			t.Errorf("%s: %s, %+v; want %s, %+v", tt.name, told, n, tt.told, tt.want)
		}
	}
}

func TestAnInterfaceShowsWhereItsAddressIsFrom(t *testing.T) {
	for _, tt := range []struct {
		dhcp   bool
		origin string
		static int
	}{{false, "Static", 1}, {true, "DHCP", 0}} {
		o := NIC{"10.0.0.2", "255.0.0.0", "10.0.0.1", tt.dhcp}.Body("02:00:00:00:00:01")
		all, _ := o["IPv4Addresses"].([]map[string]any)
		static, _ := o["IPv4StaticAddresses"].([]map[string]any)
		v4, _ := o["DHCPv4"].(map[string]any)
		want := map[string]any{"Address": "10.0.0.2", "AddressOrigin": tt.origin, "Gateway": "10.0.0.1", "SubnetMask": "255.0.0.0"}
		if diff := cmp.Diff([]map[string]any{want}, all); diff != "" {
			t.Errorf("DHCP %v (-want +got):\n%s", tt.dhcp, diff)
		}
		if len(static) != tt.static || v4["DHCPEnabled"] != tt.dhcp || o["MACAddress"] != "02:00:00:00:00:01" {
			t.Errorf("DHCP %v: %v", tt.dhcp, o)
		}
		v6, _ := o["DHCPv6"].(map[string]any)
		if keys := []string{"OperatingMode", "UseNTPServers"}; slices.ContainsFunc(keys, func(k string) bool { return v6[k] == nil }) || v6["DHCPEnabled"] != nil {
			t.Errorf("version 6 is %v", v6)
		}
	}
}

var update = flag.Bool("update", false, "write the golden files")

// One of each part, whole, as clients read it.
func TestWholeParts(t *testing.T) {
	s := server()
	parts := []obj{NIC{"10.0.0.2", "255.0.0.0", "10.0.0.1", false}.Body(MAC(s.Serial, 1))}
	for id, body := range map[string]func(string) (obj, bool){
		"cpu0": s.Processor, "dimm0": s.Memory, "powersupply0": s.Supply, "fan0": s.Fan, "storage0": s.Storage, "sda": s.Drive, "nic0": s.Card,
	} {
		o, _ := body(id)
		parts = append(parts, o)
	}
	slices.SortFunc(parts, func(a, b obj) int { return strings.Compare(fmt.Sprint(a["@odata.id"]), fmt.Sprint(b["@odata.id"])) })
	got, err := json.MarshalIndent(parts, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "parts.json")
	if *update {
		if err = os.WriteFile(golden, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

package ctl_test

import (
	"context"
	"encoding/json"
	"time"

	"connectrpc.com/connect"

	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/inventory"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

func (f *canned) ListHardwareNews(context.Context, *connect.Request[pb.ListHardwareNewsRequest]) (*connect.Response[pb.ListHardwareNewsReply], error) {
	return connect.NewResponse(&pb.ListHardwareNewsReply{News: []*pb.HardwareNews{hardware()}}), nil
}

func hardware() *pb.HardwareNews {
	const one = "/redfish/v1/Systems/1"
	return &pb.HardwareNews{Node: "r01-u02", AtUnixMs: noon, More: 2, Changes: []*pb.HardwareChange{
		{What: "removed", Kind: "drive", Path: one + "/Storage/1/Drives/sda", Before: "S4NX"},
		{What: "added", Kind: "memory", Path: one + "/Memory/B1", After: "MEM-7"},
		{What: "changed", Kind: "manager", Path: "/redfish/v1/Managers/bmc#firmware", Before: "2.17", After: "2.18"},
	}}
}

// inventory is what a node is made of; r02-u01 has not answered for an hour.
func (*canned) inventory(node string) []byte {
	doc := map[string]string{
		"/redfish/v1": `{"@odata.id":"/redfish/v1","@odata.type":"#ServiceRoot.ServiceRoot"}`,
		"/redfish/v1/Systems/1": `{"@odata.id":"/redfish/v1/Systems/1","@odata.type":"#ComputerSystem.ComputerSystem","Manufacturer":"Chiba","Model":"Chiba 2U",
			"SerialNumber":"SN-` + node + `","BiosVersion":"1.4","MemorySummary":{"TotalSystemMemoryGiB":32},"Status":{"Health":"OK"}}`,
		"/redfish/v1/Systems/1/Processors/0": `{"@odata.type":"#Processor.Processor","Socket":"CPU 0","Model":"EPYC","TotalCores":32,"MaxSpeedMHz":3700}`,
		"/redfish/v1/Systems/1/Memory/A1": `{"@odata.type":"#Memory.Memory","Name":"DIMM Slot","CapacityMiB":32768,"MemoryDeviceType":"DDR5",
			"OperatingSpeedMhz":4800,"SerialNumber":"MEM-1","PartNumber":"P-1","Status":{"Health":"Warning"}}`,
		"/redfish/v1/Systems/1/Memory/A2":         `{"@odata.type":"#Memory.Memory","Name":"DIMM Slot","Status":{"State":"Absent"}}`,
		"/redfish/v1/Managers/bmc":                `{"@odata.type":"#Manager.Manager","Name":"BMC \u001b[31m","ManagerType":"BMC","FirmwareVersion":"2.18","Oem":{"x":{"@odata.type":"#M.Manager"}}}`,
		"/redfish/v1/AccountService/Accounts/ann": `{"@odata.type":"#ManagerAccount.ManagerAccount","UserName":"ann","RoleId":"Administrator"}`,
	}
	tree := &redfish.Tree{Resources: []redfish.Resource{{URI: "/redfish/v1/Chassis", Err: "the BMC answered 500"}}}
	for uri, body := range doc {
		tree.Resources = append(tree.Resources, redfish.Resource{URI: uri, Body: []byte(body)})
	}
	out := inventory.Of(tree).Doc()
	out.At = wire.FromTime(noon)
	if node == "r02-u01" {
		out.At, out.Stale = time.Now().Add(-time.Hour), "no answer within 10s"
	}
	text, err := json.Marshal(out)
	if err != nil {
		panic(err)
	}
	return text
}

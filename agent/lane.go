package agent

import (
	"context"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/events"
	"github.com/chiba-mesh/chiba/pkg/redfish/inventory"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// lane is the way to one BMC; a *bmc.Lane is one, and its documentation is the
// contract.
type lane interface {
	Read(ctx context.Context, prio bmc.Priority, refs []scl.Ref) ([]fleet.Reading, error)
	Plan(ctx context.Context, settings []scl.Setting) []fleet.Change
	Apply(ctx context.Context, settings []scl.Setting) []fleet.Result
	Do(ctx context.Context, cmd scl.Command) fleet.Result
	BootAndRestart(ctx context.Context, boot, restart scl.Command, begin func(boot fleet.Result) error) ([]fleet.Result, error)
	Dump(ctx context.Context) (*redfish.Tree, error)
	Inventory(ctx context.Context) (*inventory.Inventory, error)
	Events(ctx context.Context, receiver *events.Receiver, deliver func(events.Notice)) error
	LogEvents(ctx context.Context) ([]events.Event, error)
	SweepEvents(ctx context.Context) error
	UpdateFirmware(ctx context.Context, u bmc.FirmwareUpdate) fleet.Result
	FirmwareVersion(ctx context.Context, id string) (string, error)
	Traces(ctx context.Context) (bmc.Traces, error)
	Summary(ctx context.Context) (fleet.Node, error)
	Glance(ctx context.Context) (fleet.Node, error)
	Stats() bmc.Stats
	Sensors() []bmc.Sensor
	State() (fleet.NodeState, string)
	Close(ctx context.Context) error
}

package bmc

import (
	"context"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// Update streams a firmware image to the BMC and waits until its task has ended
// or the deadline of watch is over. That it is done is the BMC's word: what runs
// is told by the version that is read back. Reads go on meanwhile, writes wait
// until the image is there.
func (l *Lane) Update(ctx context.Context, u redfish.Upload, watch redfish.Watch) (redfish.TaskReport, error) {
	reply, err := l.push(ctx, u)
	if err != nil {
		return redfish.TaskReport{End: redfish.TaskUnknown, Percent: -1, Why: err.Error()}, err
	}
	task, begun := reply.TaskOf()
	if !begun {
		return redfish.TaskReport{End: redfish.TaskDone, Percent: -1}, nil
	}
	r := redfish.WaitTask(ctx, asker{l, Action}, task, watch)
	return r, l.named(r.Err())
}

// push streams an image to the BMC.
func (l *Lane) push(ctx context.Context, u redfish.Upload) (reply *redfish.Reply, err error) {
	err = l.write(ctx, Action, func() error {
		reply, err = l.client.Upload(ctx, u)
		return err
	})
	return reply, err
}

// UpdateService is where a BMC takes firmware images.
type UpdateService struct {
	URI string
	Raw bool         // the image alone, without parameters
	Max int64        // bytes of an image, 0: not known
	BMC redfish.Link // the target that stands for the BMC itself, "" if it has none
}

// UpdateService asks the BMC where and how it takes an image.
func (l *Lane) UpdateService(ctx context.Context) (UpdateService, error) {
	v := l.view(Action)
	p, err := v.places(ctx)
	if err != nil {
		return UpdateService{}, err
	}
	if p.root.UpdateService == "" {
		return UpdateService{}, absent("update service")
	}
	var doc struct {
		Multipart redfish.Text   `json:"MultipartHttpPushUri"`
		Push      redfish.Text   `json:"HttpPushUri"`
		Max       redfish.Number `json:"MaxImageSizeBytes"`
	}
	if err = redfish.Get(ctx, v, p.root.UpdateService, &doc); err != nil {
		return UpdateService{}, orAbsent(err, "update service")
	}
	manager, err := v.managerLink(ctx)
	if err != nil {
		return UpdateService{}, err
	}
	s := UpdateService{URI: string(doc.Multipart), Max: int64(doc.Max.Value), BMC: manager}
	if s.URI == "" {
		s.URI, s.Raw = string(doc.Push), true
	}
	if s.URI == "" {
		return UpdateService{}, fault.New(fault.Unsupported, "update the firmware", "this BMC takes no image by push")
	}
	return s, nil
}

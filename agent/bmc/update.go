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
	var reply *redfish.Reply
	err := l.write(ctx, Action, func() (err error) {
		reply, err = l.client.Upload(ctx, u)
		return err
	})
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

// UpdateURI is where the BMC takes a firmware image: whole with its parameters,
// or, with raw, the image alone.
func (l *Lane) UpdateURI(ctx context.Context) (uri string, raw bool, err error) {
	v := l.view(Action)
	p, err := v.places(ctx)
	if err != nil {
		return "", false, err
	}
	var s struct {
		Multipart redfish.Text `json:"MultipartHttpPushUri"`
		Push      redfish.Text `json:"HttpPushUri"`
	}
	if p.root.UpdateService == "" {
		return "", false, absent("update service")
	}
	if err := redfish.Get(ctx, v, p.root.UpdateService, &s); err != nil {
		return "", false, orAbsent(err, "update service")
	}
	switch {
	case s.Multipart != "":
		return string(s.Multipart), false, nil
	case s.Push != "":
		return string(s.Push), true, nil
	default:
		return "", false, fault.New(fault.Unsupported, "update the firmware", "this BMC takes no image by push")
	}
}

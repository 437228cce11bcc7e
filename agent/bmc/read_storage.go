package bmc

import (
	"cmp"
	"context"
	"fmt"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

func storageHealth(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
	s, uri, err := v.system(ctx)
	if err != nil {
		return sample{uri: uri}, err
	}
	stores, err := parts[member](ctx, v, s.Storage, "health of the storage")
	return membersOf(stores, s.Storage, healthOf), err
}

func driveCount(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
	found, uri, err := v.driveLinks(ctx)
	return one("drives", fleet.Number(float64(len(found)), fleet.NoUnit), uri), err
}

func ofDrives(value func(drive) fleet.Value) source {
	return func(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
		found, uri, err := v.drives(ctx)
		return instances(found, uri, func(d drive) (redfish.Text, fleet.Value) { return cmp.Or(d.ID, "?"), value(d) }), err
	}
}

// volumeState finds the volume of that id or name in all storage.
func volumeState(ctx context.Context, v *view, ref scl.Ref) (sample, error) {
	what := fmt.Sprintf("volume %q", ref.Param)
	s, uri, err := v.system(ctx)
	if err != nil {
		return sample{uri: uri}, err
	}
	type store struct{ Volumes redfish.Link }
	stores, err := parts[store](ctx, v, s.Storage, what)
	if err != nil {
		return sample{uri: s.Storage}, err
	}
	var d doubt // of a store or a volume that could not be read: it may be the one
	for _, st := range stores {
		d.note(st.err)
		volumes, err := parts[member](ctx, v, st.value.Volumes, what)
		d.note(err)
		for _, g := range volumes {
			d.note(g.err)
			if m := g.value; same(string(m.ID), ref.Param) || same(string(m.Name), ref.Param) {
				return one(string(m.ID), textOf(m.Status.State, "state of the volume"), st.value.Volumes), nil
			}
		}
	}
	return sample{uri: s.Storage}, d.absent(what)
}

// driveLinks are the drives of all storage.
func (v *view) driveLinks(ctx context.Context) ([]redfish.Link, redfish.Link, error) {
	s, uri, err := v.system(ctx)
	if err != nil {
		return nil, uri, err
	}
	type store struct{ Drives []redfish.Link }
	listed, err := parts[store](ctx, v, s.Storage, "storage")
	if err != nil {
		return nil, s.Storage, err
	}
	stores, err := whole(listed)
	if err != nil {
		return nil, s.Storage, err
	}
	var found []redfish.Link
	for _, st := range stores {
		found = append(found, st.Drives...)
	}
	return links(found), s.Storage, nil
}

func (v *view) drives(ctx context.Context) ([]got[drive], redfish.Link, error) {
	found, uri, err := v.driveLinks(ctx)
	if err != nil {
		return nil, uri, err
	}
	all, err := resources[drive](ctx, v, found, "drives")
	return all, uri, err
}

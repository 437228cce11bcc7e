package api

import (
	"context"
	"fmt"
	"path"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/catalogue"
	"github.com/chiba-mesh/chiba/pkg/catalogue/source"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// GetCatalogue implements pbconnect.FleetHandler.
func (s *Server) GetCatalogue(context.Context, *connect.Request[pb.GetCatalogueRequest]) (*connect.Response[pb.GetCatalogueReply], error) {
	return connect.NewResponse(&pb.GetCatalogueReply{Catalogue: s.conf.Machine.Catalogue().Message()}), nil
}

// PutCatalogue implements pbconnect.FleetHandler. One that is wrong changes nothing.
func (s *Server) PutCatalogue(ctx context.Context, r *connect.Request[pb.PutCatalogueRequest]) (*connect.Response[pb.PutCatalogueReply], error) {
	q := r.Msg
	o, err := s.ordered(q.GetEnvelope(), nil, order.Catalogue)
	if err != nil {
		return nil, err
	}
	if o.Name != catalogue.Name || o.Digest != order.Digest(q.GetSource()) {
		return nil, unfit("the catalogue is not the one that was signed")
	}
	next, err := s.bound(q, o)
	if err != nil {
		return nil, err
	}
	next.By = callerOf(ctx).name
	out, err := s.commit(ctx, &pb.Command{Body: &pb.Command_PutCatalogue{PutCatalogue: &pb.PutCatalogue{Catalogue: next, From: q.GetFrom()}}})
	if err != nil {
		return nil, err
	}
	kept, _ := proto.Clone(next).(*pb.Catalogue)
	if out.Catalogue != nil { // nil if it had been committed before, by this very call
		kept, _ = proto.Clone(out.Catalogue).(*pb.Catalogue)
	}
	kept.Source, kept.Parts, kept.Envelope = nil, nil, nil
	s.conf.Log.Info("site catalogue applied", obs.Count, kept.GetVersion(), obs.Peer, next.GetBy())
	return connect.NewResponse(&pb.PutCatalogueReply{Catalogue: kept}), nil
}

// bound is a catalogue with its parts, which are those that were signed.
func (s *Server) bound(q *pb.PutCatalogueRequest, o order.Order) (*pb.Catalogue, error) {
	const op = "read the site catalogue"
	known := s.conf.Machine.Catalogue()
	if from := known.Message().GetVersion(); from != q.GetFrom() && known.Message().GetVersion() != o.Version {
		return nil, fault.New(fault.Conflict, op, fmt.Sprintf("version %d by %s came in between", from, known.Message().GetBy())).
			WithHint("look at it with: chiba catalogue show, then apply yours again")
	}
	file := path.Base(q.GetFile())
	c, found := source.Read(file, q.GetSource())
	if len(found) > 0 {
		return nil, fault.New(fault.BadInput, op, found[0].Text).WithHint("see all that is wrong: chiba catalogue check FILE")
	}
	_, _, gone := known.Names()
	parts, err := c.Parts(gone)
	if err != nil {
		return nil, err
	}
	tree, err := catalogue.NewTree(parts)
	if err != nil {
		return nil, err
	}
	if root, rootErr := tree.Root(); rootErr != nil || root != o.Parts {
		return nil, fault.New(fault.Conflict, op, "its parts are others than those that were signed").
			WithHint("another catalogue came in between, or this chiba is not the coordinators' build: chiba get coordinators, then apply it again")
	}
	return &pb.Catalogue{
		File: file, Source: q.GetSource(), Digest: o.Digest, Version: o.Version, Envelope: q.GetEnvelope(), Parts: parts,
	}, nil
}

// listed adds what stands in the site catalogue to the names that a script may use.
func listed(b *state.Book, racks, sites *[]string) {
	inRacks, inSites, _ := b.Names()
	*racks, *sites = append(*racks, inRacks...), append(*sites, inSites...)
}

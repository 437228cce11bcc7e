package ctl_test

import (
	"context"
	"slices"

	"connectrpc.com/connect"

	"github.com/chiba-mesh/chiba/pkg/catalogue"
	"github.com/chiba-mesh/chiba/pkg/catalogue/source"
	"github.com/chiba-mesh/chiba/pkg/client/clienttest"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

func (f *canned) GetCatalogue(context.Context, *connect.Request[pb.GetCatalogueRequest]) (*connect.Response[pb.GetCatalogueReply], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return connect.NewResponse(&pb.GetCatalogueReply{Catalogue: f.book}), nil
}

// PutCatalogue keeps a catalogue as version 1, 2, …; envelopes of the canned author are
// orders that nobody has signed.
func (f *canned) PutCatalogue(_ context.Context, r *connect.Request[pb.PutCatalogueRequest]) (*connect.Response[pb.PutCatalogueReply], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o, err := order.Decode(r.Msg.GetEnvelope())
	if err != nil || o.Kind != order.Catalogue || o.Digest != order.Digest(r.Msg.GetSource()) || r.Msg.GetFrom() != f.book.GetVersion() {
		return nil, clienttest.Error(connect.CodeInvalidArgument, fault.New(fault.BadInput, "", "the canned fleet refuses it"))
	}
	c, found := source.Read(r.Msg.GetFile(), r.Msg.GetSource())
	if len(found) > 0 {
		return nil, fault.New(fault.BadInput, "", found[0].Text)
	}
	parts, err := c.Parts(nil)
	if err != nil {
		return nil, err
	}
	f.book = &pb.Catalogue{
		File: r.Msg.GetFile(), Source: r.Msg.GetSource(), Digest: o.Digest, Version: f.book.GetVersion() + 1, Parts: parts,
		By: "ada", AtUnixMs: noon, Revision: 1,
	}
	return connect.NewResponse(&pb.PutCatalogueReply{Catalogue: f.book}), nil
}

// placed are nodes as the catalogue says of them, where it has their rack.
func (f *canned) placed(nodes []*pb.Node) []*pb.Node {
	if f.book == nil {
		return nodes
	}
	c, _ := source.Read("", f.book.GetSource())
	for i, n := range nodes {
		for j := range c.Racks {
			k := &c.Racks[j]
			if string(k.Name) != n.GetRack() {
				continue
			}
			from := wire.FromNode(n)
			from.Site, from.Labels = k.Site, k.Labels
			if at := slices.IndexFunc(k.Nodes, func(x catalogue.Node) bool { return string(x.Name) == n.GetName() }); at >= 0 {
				from.Labels = k.Nodes[at].Labels
			}
			nodes[i] = wire.ToNode(from)
		}
	}
	return nodes
}

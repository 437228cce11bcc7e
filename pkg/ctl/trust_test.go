package ctl_test

import (
	"context"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/chiba-mesh/chiba/pkg/client/clienttest"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

func (f *canned) Deny(_ context.Context, q *connect.Request[pb.DenyRequest]) (*connect.Response[pb.DenyReply], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !strings.Contains(q.Msg.GetSubject(), "/") {
		return nil, clienttest.Error(connect.CodeInvalidArgument, fault.New(fault.BadInput, "", "that names nobody").WithHint("write agent/NAME"))
	}
	d := &pb.Denial{Subject: q.Msg.GetSubject(), Reason: q.Msg.GetReason(), By: "ann", AtUnixMs: time.Now().Add(-5 * time.Minute).UnixMilli()}
	f.denied = append(f.denied, d)
	return connect.NewResponse(&pb.DenyReply{Denial: d}), nil
}

func (f *canned) Allow(_ context.Context, q *connect.Request[pb.AllowRequest]) (*connect.Response[pb.AllowReply], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.IndexFunc(f.denied, func(d *pb.Denial) bool { return d.GetSubject() == q.Msg.GetSubject() })
	if i < 0 {
		return nil, clienttest.Error(connect.CodeNotFound, fault.New(fault.NotFound, "", "it is not denied").WithHint("see who is: chiba trust list"))
	}
	d := f.denied[i]
	f.denied = slices.Delete(f.denied, i, i+1)
	return connect.NewResponse(&pb.AllowReply{Denial: d}), nil
}

func (f *canned) ListDenied(context.Context, *connect.Request[pb.ListDeniedRequest]) (*connect.Response[pb.ListDeniedReply], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return connect.NewResponse(&pb.ListDeniedReply{Denied: f.denied}), nil
}

package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
)

// Stock keeps artifacts; a *stock.Stock is one.
type Stock interface {
	Put(ctx context.Context, r io.Reader, digest string, size int64) (holders []string, err error)
}

// PutArtifact implements pbconnect.FleetHandler.
func (s *Server) PutArtifact(ctx context.Context, stream *connect.ClientStream[pb.PutArtifactRequest]) (*connect.Response[pb.PutArtifactReply], error) {
	const op = "add an artifact"
	release, err := s.streaming()
	if err != nil {
		return nil, err
	}
	defer release()
	if s.conf.Stock == nil {
		return nil, fault.New(fault.Unsupported, op, "this coordinator keeps none")
	}
	in := &body{stream: stream, caller: callerOf(ctx)}
	if !in.receive() {
		return nil, errors.Join(stream.Err(), fault.New(fault.BadInput, op, "nothing was sent"))
	}
	m := stream.Msg()
	a := &pb.Artifact{Digest: m.GetDigest(), Size: m.GetSize(), Name: path.Base(m.GetName())}
	if !trust.ValidName(a.GetName()) {
		return nil, fault.New(fault.BadInput, op, fmt.Sprintf("%q is no name; it takes 1 to 63 letters, digits, '-', '_' or '.'", a.GetName())).
			WithHint("give it one with --name")
	}
	if a.Holders, err = s.conf.Stock.Put(ctx, in, a.GetDigest(), a.GetSize()); err != nil {
		return nil, err
	}
	a.By = in.caller.name
	o, err := s.commit(ctx, &pb.Command{Body: &pb.Command_PutArtifact{PutArtifact: &pb.PutArtifact{Artifact: a}}})
	if err != nil {
		return nil, err
	}
	if o.Artifact != nil {
		a = o.Artifact
	}
	s.conf.Log.Info("artifact added", "name", a.GetName(), "digest", a.GetDigest(), "by", a.GetBy(), obs.Count, len(a.GetHolders()))
	return connect.NewResponse(&pb.PutArtifactReply{Artifact: a}), nil
}

// body is what the messages after the first carry.
type body struct {
	stream *connect.ClientStream[pb.PutArtifactRequest]
	caller *caller
	left   []byte
}

// receive waits for the next message, within the patience we have: one who sends
// nothing more holds a slot, and half a file. What comes after the last has time.
func (b *body) receive() bool {
	_ = b.caller.writer.SetReadDeadline(time.Now().Add(b.caller.patience)) // without one it waits for the caller's end
	more := b.stream.Receive()
	if !more {
		_ = b.caller.writer.SetReadDeadline(time.Time{})
	}
	return more
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	for len(b.left) == 0 {
		if !b.receive() {
			if err := b.stream.Err(); err != nil {
				return 0, err
			}
			return 0, io.EOF
		}
		b.left = b.stream.Msg().GetData()
	}
	n := copy(p, b.left)
	b.left = b.left[n:]
	return n, nil
}

// ListArtifacts implements pbconnect.FleetHandler.
func (s *Server) ListArtifacts(context.Context, *connect.Request[pb.ListArtifactsRequest]) (*connect.Response[pb.ListArtifactsReply], error) {
	return connect.NewResponse(&pb.ListArtifactsReply{Artifacts: s.artifacts()}), nil
}

// artifacts are those that are kept, by name.
func (s *Server) artifacts() []*pb.Artifact {
	all := s.conf.Machine.Artifacts()
	slices.SortStableFunc(all, func(a, b *pb.Artifact) int { return strings.Compare(a.GetName(), b.GetName()) })
	return all
}

// DropArtifact implements pbconnect.FleetHandler.
func (s *Server) DropArtifact(ctx context.Context, r *connect.Request[pb.DropArtifactRequest]) (*connect.Response[pb.DropArtifactReply], error) {
	a, err := s.artifact(r.Msg.GetArtifact())
	if err != nil {
		return nil, err
	}
	o, err := s.commit(ctx, &pb.Command{Body: &pb.Command_RemoveArtifact{RemoveArtifact: &pb.RemoveArtifact{Digest: a.GetDigest()}}})
	if err != nil {
		return nil, err
	}
	if o.Artifact != nil {
		a = o.Artifact
	}
	return connect.NewResponse(&pb.DropArtifactReply{Artifact: a}), nil
}

// artifact is the one of a name, or the one whose digest begins so.
func (s *Server) artifact(who string) (*pb.Artifact, error) {
	const op, least = "find the artifact", 6
	var found []*pb.Artifact
	for _, a := range s.artifacts() {
		digits := strings.TrimPrefix(a.GetDigest(), "sha256:")
		begins := strings.TrimPrefix(who, "sha256:")
		if a.GetName() == who {
			return a, nil
		}
		if len(begins) >= least && strings.HasPrefix(digits, begins) {
			found = append(found, a)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, fault.New(fault.NotFound, op, fmt.Sprintf("there is none called %q", who)).WithHint("see them with: chiba artifact list")
	}
	return nil, fault.New(fault.BadInput, op, fmt.Sprintf("%q is the beginning of several digests", who)).WithHint("write more of it")
}

package client

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/pkg/wire/pb/pbconnect"
)

// artifactPiece is what one message carries of a file.
const artifactPiece = 256 << 10

// Artifact is an image or a firmware file that the coordinators keep.
type Artifact struct {
	Digest  string // "sha256:" and hex
	Name    string
	Size    int64
	Holders []string // coordinators that have it on disk
	Added   time.Time
	By      string
}

func toArtifact(a *pb.Artifact) Artifact {
	return Artifact{
		Digest: a.GetDigest(), Name: a.GetName(), Size: a.GetSize(), Holders: a.GetHolders(),
		Added: wire.FromTime(a.GetAddedUnixMs()), By: a.GetBy(),
	}
}

// AddArtifact sends a file, from its beginning, with the digest and the size that were
// seen in it. Told hears how many bytes were sent.
func (c *Client) AddArtifact(ctx context.Context, a Artifact, file io.ReadSeeker, told func(sent int64)) (Artifact, error) {
	const op = "add the artifact"
	var kept Artifact
	err := c.around(ctx, func(w way) error {
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return fault.Wrap(fault.BadInput, op, err)
		}
		answer, err := c.sendArtifact(ctx, w, a, file, told)
		if err != nil {
			return c.fromRPC(op, w, err)
		}
		kept = toArtifact(answer.GetArtifact())
		return nil
	})
	return kept, err
}

func (c *Client) sendArtifact(ctx context.Context, w way, a Artifact, file io.Reader, told func(sent int64)) (*pb.PutArtifactReply, error) {
	stream := w.rpc.PutArtifact(ctx)
	err := stream.Send(&pb.PutArtifactRequest{Name: a.Name, Digest: a.Digest, Size: a.Size})
	buf := make([]byte, artifactPiece)
	for sent := int64(0); err == nil; {
		n, readErr := io.ReadFull(file, buf)
		if n > 0 {
			err = stream.Send(&pb.PutArtifactRequest{Data: buf[:n]})
			sent += int64(n)
			told(sent)
		}
		if errors.Is(readErr, io.EOF) || errors.Is(readErr, io.ErrUnexpectedEOF) {
			break
		}
		if readErr != nil {
			return nil, readErr
		}
	}
	// The answer says why, if it did not take all of it.
	answer, err := stream.CloseAndReceive()
	if err != nil {
		return nil, err
	}
	return answer.Msg, nil
}

// Artifacts are those that the coordinators keep, by name.
func (c *Client) Artifacts(ctx context.Context) ([]Artifact, error) {
	a, err := call(ctx, c, "list the artifacts", pbconnect.FleetClient.ListArtifacts, &pb.ListArtifactsRequest{})
	return list(a.GetArtifacts(), toArtifact), err
}

// RemoveArtifact has the coordinators forget an artifact, by its name or the beginning
// of its digest. What agents have of it stays until they need the room.
func (c *Client) RemoveArtifact(ctx context.Context, who string) (Artifact, error) {
	a, err := call(ctx, c, "remove the artifact", pbconnect.FleetClient.DropArtifact, &pb.DropArtifactRequest{Artifact: who})
	return toArtifact(a.GetArtifact()), err
}

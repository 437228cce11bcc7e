package api_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// upload sends the first message and pieces, with a pause before the last one, and
// returns what became of it.
func (w *world) upload(pause <-chan struct{}, pieces ...string) error {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	stream := w.fleet.PutArtifact(ctx)
	all := strings.Join(pieces, "")
	err := stream.Send(&pb.PutArtifactRequest{Name: "bmc.tar", Digest: "sha256:" + strings.Repeat("7", 64), Size: int64(len(all))})
	for i, piece := range pieces {
		if err == nil && i == len(pieces)-1 {
			<-pause
		}
		if err == nil {
			err = stream.Send(&pb.PutArtifactRequest{Data: []byte(piece)})
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		w.t.Error(err)
	}
	_, err = stream.CloseAndReceive()
	if ctx.Err() != nil {
		w.t.Error("it was waited for to the end")
	}
	return err
}

func TestPutArtifact(t *testing.T) {
	w := newWorld(t)
	now := make(chan struct{})
	close(now)
	if err := w.upload(now, strings.Repeat("a", 100_000), "b"); err != nil {
		t.Error(err)
	}
	if got := w.machine.Artifacts(); len(got) != 1 || got[0].GetName() != "bmc.tar" || got[0].GetBy() != "ada" {
		t.Errorf("kept: %v", got)
	}
	if _, err := w.fleet.PutArtifact(t.Context()).CloseAndReceive(); err == nil {
		t.Error("nothing at all was taken")
	}
}

// One who stops sending holds a slot and half a file no longer than our patience.
func TestAnUploadThatStopsEnds(t *testing.T) {
	w := newWorldWith(t, 200*time.Millisecond)
	late := make(chan struct{})
	timer := time.AfterFunc(2*time.Second, func() { close(late) })
	defer timer.Stop()
	if err := w.upload(late, "a", "b"); err == nil || len(w.machine.Artifacts()) != 0 {
		t.Errorf("got %v, and %v are kept", err, w.machine.Artifacts())
	}
}

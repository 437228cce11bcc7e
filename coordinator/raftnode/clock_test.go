package raftnode

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// commitAt commits something as a leader does whose clock is at that time.
func commitAt(t *testing.T, n *Node, at int64) {
	t.Helper()
	data, err := proto.Marshal(&pb.Command{Version: state.Version, Session: "c9/1", Seq: 1, Body: &pb.Command_Mark{Mark: &pb.Mark{}}})
	if err != nil {
		t.Fatal(err)
	}
	entry, err := state.Batch(at, [][]byte{data})
	if err == nil {
		err = n.raft.Apply(entry, time.Second).Error()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A clock that was ahead and is set back, even over a restart, does not take the time of
// the log with it: what comes later in the log is never earlier.
func TestTimeOfTheLogNeverGoesBack(t *testing.T) {
	dir := t.TempDir()
	var last int64
	for life := range 3 {
		machine := state.New()
		n, err := Open(Config{Dir: dir, Name: "c1", Machine: machine, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- n.Run(ctx) }()
		<-n.Ready()
		if life == 0 {
			last = time.Now().Add(24 * time.Hour).UnixMilli()
			commitAt(t, n, last)
		}
		source := []byte("x")
		o, err := n.Propose(ctx, &pb.Command{Body: &pb.Command_PutScript{PutScript: &pb.PutScript{
			Script: &pb.Script{Name: "s", Source: source, Digest: order.Digest(source)},
		}}})
		if at := o.Script.GetAppliedUnixMs(); err != nil || at < last {
			t.Errorf("in life %d it is %s earlier than it was: %v", life, time.Duration(last-at)*time.Millisecond, err)
		}
		if life == 1 { // the next one begins from a snapshot
			if err = n.Snapshot(); err != nil {
				t.Error(err)
			}
		}
		cancel()
		if err = <-ended; err != nil {
			t.Error(err)
		}
		if err = n.Close(); err != nil {
			t.Error(err)
		}
	}
}

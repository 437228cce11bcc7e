package raftnode

import (
	"io"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// A follower refuses what is sent to it while more is under way: who sends is told, and
// does not wait for ever for an answer that nobody takes any more.
func TestAPipelineEndsWithTheFirstRefusal(t *testing.T) {
	wire := func() *raft.NetworkTransport {
		t.Helper()
		w, err := raft.NewTCPTransport("127.0.0.1:0", nil, 1, 10*time.Second, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	far, near := wire(), newPushing(wire())
	defer func() { _, _ = far.Close(), near.Close() }()
	go func() { // ends with the test
		for {
			select {
			case rpc := <-far.Consumer():
				rpc.Respond(&raft.AppendEntriesResponse{}, nil)
			case <-t.Context().Done():
				return
			}
		}
	}()
	p, err := near.AppendEntriesPipeline("far", far.LocalAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	refused := make(chan bool, 1)
	go func() { refused <- (<-p.Consumer()).Response().Success }() // and takes no more, as Raft
	ended := make(chan struct{})
	go func() {
		for {
			if _, err := p.AppendEntries(&raft.AppendEntriesRequest{}, &raft.AppendEntriesResponse{}); err != nil {
				close(ended)
				return
			}
		}
	}()
	if <-refused {
		t.Error("it was taken")
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("who sends waits for ever")
	}
}

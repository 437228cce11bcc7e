package raftnode

import (
	"sync"

	"github.com/hashicorp/raft"
)

// AppendEntriesPipeline implements raft.Transport. In hashicorp/raft v1.8.0 with few
// requests under way, who sends waits for ever if a request is refused while another is
// under way: the one who reads the answers has left, and the sender is told of that only
// between two sends. The follower then gets nothing until another leads. So we end the
// pipeline with the first answer that refuses; Raft goes on without one, and begins the
// next when an entry was taken.
func (p *pushing) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	inner, err := p.NetworkTransport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	l := &pipeline{AppendPipeline: inner, answers: make(chan raft.AppendFuture), closed: make(chan struct{})}
	l.passing.Go(l.pass)
	return l, nil
}

// pipeline ends itself with the first answer that is no success.
type pipeline struct {
	raft.AppendPipeline
	answers chan raft.AppendFuture
	closed  chan struct{}
	once    sync.Once // closes closed
	passing sync.WaitGroup
}

// Consumer implements raft.AppendPipeline.
func (l *pipeline) Consumer() <-chan raft.AppendFuture { return l.answers }

// Close implements raft.AppendPipeline.
func (l *pipeline) Close() error {
	l.once.Do(func() { close(l.closed) })
	err := l.AppendPipeline.Close()
	l.passing.Wait()
	return err
}

// pass hands the answers on, until one refuses or the pipeline is closed.
func (l *pipeline) pass() {
	for {
		select {
		case a := <-l.AppendPipeline.Consumer():
			select {
			case l.answers <- a:
			case <-l.closed:
				return
			}
			if a.Error() != nil || !a.Response().Success {
				_ = l.AppendPipeline.Close() // who sends is told
				return
			}
		case <-l.closed:
			return
		}
	}
}

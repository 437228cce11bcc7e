package raftnode_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// Many commands at once share entries of the log, whoever is asked, and each has its
// own outcome; one alone has an entry of its own.
func TestManyShareAnEntry(t *testing.T) {
	g := founded(t)
	_, leader := g.leader()
	_, follower := g.follower()
	for name, m := range map[string]*member{"leader": leader, "follower": follower} {
		before := leader.node.Status().Commit
		const many = 1000
		var all sync.WaitGroup
		for i := range many {
			all.Go(func() {
				c := script(fmt.Sprint(name, i))
				if i%2 == 1 {
					c = &pb.Command{Body: &pb.Command_RemoveScript{RemoveScript: &pb.RemoveScript{Name: fmt.Sprint("none", i)}}}
				}
				o, err := m.node.Propose(context.Background(), c)
				if err != nil || i%2 == 0 && o.Script.GetName() != fmt.Sprint(name, i) || i%2 == 1 && !fault.Is(o.Err, fault.NotFound) {
					t.Errorf("%s %d: %v, %+v", name, i, err, o)
				}
			})
		}
		all.Wait()
		if n := leader.node.Status().Commit - before; n > many/4 {
			t.Errorf("%s: %d commands made %d entries", name, many, n)
		}
	}
	if n := len(leader.machine.Scripts()); n != 1000 {
		t.Errorf("there are %d scripts", n)
	}
	g.same()
}

// Commands that are too large to share an entry are committed all the same, and do not
// keep the small ones from it.
func TestLargeAndSmallTogether(t *testing.T) {
	g := founded(t)
	_, follower := g.follower()
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			c := script(fmt.Sprint("s", i))
			if i%4 == 0 {
				c.GetPutScript().GetScript().File = string(make([]byte, 200<<10))
			}
			if o, err := follower.node.Propose(context.Background(), c); err != nil || o.Err != nil {
				t.Errorf("%d: %v, %v", i, err, o.Err)
			}
		})
	}
	all.Wait()
	g.same()
}

// Who asks a follower does not wait until the leader happens to say how far the log is
// committed, which it does every 10 to 20 ms.
func TestAFollowerLearnsAtOnce(t *testing.T) {
	g := founded(t)
	_, follower := g.follower()
	fastest := time.Minute
	for i := range 50 {
		at := time.Now()
		g.put(follower, fmt.Sprint("s", i))
		fastest = min(fastest, time.Since(at))
	}
	if fastest > 8*time.Millisecond {
		t.Errorf("the fastest of 50 took %s", fastest)
	}
}

package sim

import (
	"context"
	"fmt"
	"time"

	agenttalk "github.com/chiba-mesh/chiba/agent/link/talk"
	hubtalk "github.com/chiba-mesh/chiba/coordinator/hub/talk"
	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// The times of the product's link and hub.
const (
	pingEvery    = 15 * time.Second
	pullEvery    = time.Minute
	pongWithin   = 10 * time.Second
	greetTimeout = 10 * time.Second
	idle         = time.Minute
	window       = 4 // batches that flow control lets out before one is read
)

// session is a connection between an agent and a coordinator: a stream each way and
// one with results, each in order by itself. What is said on it comes from the
// product's two packages called talk; what is here carries it.
type session struct {
	a            *agent
	c            *replica
	aLife, cLife int
	aOver, cOver bool

	up, down, results pipe

	hello *pb.Hello
	talk  *agenttalk.Session // at the agent, after the welcome
	heard time.Duration      // by the agent

	told      time.Duration // by the agent to the coordinator
	out       int           // batches that the coordinator has not read
	batches   []*pb.RecordBatch
	recording bool
	asking    bool      // a question for the rack is being answered
	asks      *pb.Lease // the next one
}

func newSession(a *agent, c *replica) *session {
	s := &session{a: a, c: c, aLife: a.life, cLife: c.life, heard: a.w.now, told: a.w.now}
	s.up = pipe{w: a.w, from: a.name, to: c.name}
	s.results = s.up
	s.down = pipe{w: a.w, from: c.name, to: a.name}
	return s
}

// atAgent and atCoordinator do something at an end that still lives.
func (s *session) atAgent(do func()) {
	if !s.aOver && s.a.life == s.aLife {
		s.a.alive(func() {
			if !s.aOver {
				do()
			}
		})
	}
}

func (s *session) atCoordinator(do func()) {
	if !s.cOver && s.c.life == s.cLife {
		do()
	}
}

// toCoordinator and toAgent send on the control stream.
func (s *session) toCoordinator(m *pb.FromAgent) {
	s.a.step()
	s.up.send(func() { s.atCoordinator(func() { s.told = s.c.w.now; s.listen(m) }) })
}

func (s *session) toAgent(m *pb.FromCoordinator) {
	s.down.send(func() { s.atAgent(func() { s.heard = s.a.w.now; s.take(m) }) })
}

// leave ends the session at the agent's end; the coordinator hears of it if it can.
func (s *session) leave(why string) {
	if s.aOver {
		return
	}
	s.aOver = true
	s.a.w.say("%s leaves %s: %s", s.a.name, s.c.name, why)
	s.up.send(func() { s.atCoordinator(func() { s.part("the agent left") }) })
	s.a.unlinked(s)
}

// part ends it at the coordinator's end.
func (s *session) part(why string) {
	if s.cOver {
		return
	}
	s.cOver = true
	if s.c.sessions[s.a.name] == s {
		delete(s.c.sessions, s.a.name)
	}
	s.down.send(func() { s.atAgent(func() { s.leave(why) }) })
}

// greet is the beginning at the agent's end.
func (s *session) greet() {
	hello, err := s.a.side.Hello(agenttalk.Now{})
	if err != nil {
		s.leave(err.Error())
		return
	}
	s.hello = hello
	s.toCoordinator(&pb.FromAgent{Body: &pb.FromAgent_Hello{Hello: hello}})
	s.a.after(greetTimeout, func() {
		if s.talk == nil {
			s.leave("no welcome in time")
		}
	})
}

// take is what the agent does with a message.
func (s *session) take(m *pb.FromCoordinator) {
	if s.talk == nil {
		t, err := s.a.side.Answered(s.a.now(), s.hello, m)
		if err != nil {
			s.leave(err.Error())
			return
		}
		s.talk = t
		if s.a.linked(s); s.aOver || s.a.life != s.aLife {
			return
		}
		s.pull()
		s.a.after(pingEvery, s.ping)
		s.a.after(pullEvery, s.pulls)
		s.a.acked(s.hello.GetSpoolEpoch(), m.GetWelcome().GetNextWanted())
		s.send()
		return
	}
	ask, err := s.talk.Take(context.Background(), s.a.now(), m)
	if ack := m.GetAck(); ack != nil && err == nil {
		s.a.acked(ack.GetSpoolEpoch(), ack.GetNextWanted())
	}
	switch {
	case err != nil:
		s.leave(err.Error())
	case ask == agenttalk.ToPull:
		s.pull()
	case ask == agenttalk.Kept:
		s.a.resume()
	case ask == agenttalk.Leased:
		s.a.leased(m.GetLeased())
	}
}

func (s *session) pull() { s.toCoordinator(s.talk.Pull(nil)) }

func (s *session) pulls() {
	if !s.aOver {
		s.pull()
		s.a.after(pullEvery, s.pulls)
	}
}

func (s *session) ping() {
	if s.aOver {
		return
	}
	if err := s.talk.Stalled(s.a.now(), pingEvery); err != nil {
		s.leave(err.Error())
		return
	}
	if s.a.w.now-s.heard > pingEvery+pongWithin {
		s.leave("nothing is heard")
		return
	}
	s.toCoordinator(&pb.FromAgent{Body: &pb.FromAgent_Ping{Ping: &pb.Ping{SentUnixMs: s.a.now().UnixMilli()}}})
	s.a.after(pingEvery, s.ping)
}

// send sends what waits in the spool, as far as flow control lets it.
func (s *session) send() {
	for !s.aOver && s.talk != nil && s.out < window {
		b, err := s.talk.Next()
		if err != nil {
			s.leave(err.Error())
			return
		}
		if b == nil {
			return
		}
		s.out++
		s.a.sent = append(s.a.sent[max(0, len(s.a.sent)-3):], sent{s.hello, b})
		s.a.step()
		s.results.send(func() { s.atCoordinator(func() { s.batch(b) }) })
	}
}

// listen is what the coordinator does with a message.
func (s *session) listen(m *pb.FromAgent) {
	switch b := m.GetBody().(type) {
	case *pb.FromAgent_Hello:
		s.welcome(b.Hello)
	case *pb.FromAgent_Ping:
		s.toAgent(&pb.FromCoordinator{Body: &pb.FromCoordinator_Pong{Pong: &pb.Pong{SentUnixMs: b.Ping.GetSentUnixMs()}}})
	case *pb.FromAgent_Lease:
		s.lease(b.Lease)
	case *pb.FromAgent_Pull:
		d := hubtalk.Desired(s.c.machine, s.hello, b.Pull)
		s.toAgent(&pb.FromCoordinator{Body: &pb.FromCoordinator_Desired{Desired: d}})
	}
}

// welcome greets the agent when what its hello says is in the log.
func (s *session) welcome(h *pb.Hello) {
	g := hubtalk.Greet(s.c.machine, h)
	end := func(o state.Outcome) {
		if old := s.c.sessions[s.a.name]; old != nil && old != s {
			old.part("replaced by a newer connection of the same agent")
		}
		s.c.sessions[s.a.name] = s
		w := g.Welcome(s.c.machine, o)
		w.TimeUnixMs, w.Coordinator = s.c.clock().UnixMilli(), s.c.name
		s.toAgent(&pb.FromCoordinator{Body: &pb.FromCoordinator_Welcome{Welcome: w}})
		s.watch()
	}
	if g.Command == nil {
		end(state.Outcome{})
		return
	}
	s.c.propose(g.Command, func(o state.Outcome, err error) {
		s.atCoordinator(func() {
			if err == nil {
				err = o.Err
			}
			if err != nil {
				s.refuse(err)
				return
			}
			end(o)
		})
	})
}

// refuse tells the agent why the session ends.
func (s *session) refuse(err error) {
	kind, text, hint := wire.ToFault(err)
	s.toAgent(&pb.FromCoordinator{Body: &pb.FromCoordinator_Refusal{Refusal: &pb.Refusal{Kind: kind, Error: text, Hint: hint}}})
	s.part(text)
}

// watch ends the session of an agent of which nothing is heard.
func (s *session) watch() {
	life := s.c.life
	s.c.w.after(idle/4, func() {
		if s.cOver || s.c.life != life {
			return
		}
		if s.c.w.now-s.told > idle {
			s.part("nothing is heard of the agent")
			return
		}
		s.watch()
	})
}

func (s *session) hint() { s.toAgent(hubtalk.Hint(s.c.machine)) }

// batch takes a batch in; one at a time is recorded, the others wait in the stream.
func (s *session) batch(b *pb.RecordBatch) {
	s.batches = append(s.batches, b)
	s.record()
}

func (s *session) record() {
	if s.recording || len(s.batches) == 0 || s.cOver {
		return
	}
	b := s.batches[0]
	s.batches = s.batches[1:]
	s.down.send(func() { s.atAgent(func() { s.out--; s.send() }) }) // flow control
	command, err := hubtalk.Record(s.hello, b)
	if err != nil {
		s.refuse(err)
		return
	}
	s.recording = true
	if s.c.w.mutant == AckBeforeCommit {
		records := b.GetRecords()
		s.toAgent(hubtalk.Ack(b, state.Outcome{NextWanted: records[len(records)-1].GetSeq() + 1}))
	}
	s.c.propose(command, func(o state.Outcome, err error) {
		s.atCoordinator(func() {
			s.recording = false
			if err == nil {
				err = o.Err
			}
			if err != nil {
				s.refuse(fmt.Errorf("record results: %w", err))
				return
			}
			s.toAgent(hubtalk.Ack(b, o))
			s.record()
		})
	})
}

package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chiba-mesh/chiba/coordinator/hub/talk"
	"github.com/chiba-mesh/chiba/coordinator/state"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	trustenroll "github.com/chiba-mesh/chiba/trust/enroll"
	"github.com/chiba-mesh/chiba/trust/seal"
)

const (
	// greetTimeout bounds everything up to the Welcome, and the first message
	// of every stream.
	greetTimeout = 10 * time.Second
	// farewell is how long a last message may take to arrive and be heeded.
	farewell = time.Second
	// firstPause and longestPause are between two tries to record something.
	firstPause   = 200 * time.Millisecond
	longestPause = 5 * time.Second
	// maxControl is the largest message of a control stream: a Pull that lists
	// ten thousand scripts.
	maxControl = 4 << 20
	// maxBatch is the largest batch: one record may hold a dump of 1 MiB and
	// what was read with it.
	maxBatch = 4 << 20
)

// session is one agent's connection.
type session struct {
	hub     *Hub
	conn    mesh.Session
	control *mesh.Channel
	id      trust.Identity
	since   time.Time

	nudges errand // tells the agent what the next three say
	hinted atomic.Bool
	denied chan error  // one waits at most: why the session must end
	drains chan string // likewise: why the agent shall go elsewhere

	lending errand         // answers what the next two say
	asked   chan *pb.Lease // one waits at most
	owned   atomic.Bool    // the rack has another owner

	agent, rack, site, build, pair string // from the Hello
	hello                          *pb.Hello

	revision atomic.Uint64 // of the desired state the agent has, or was sent
	trouble  atomic.Value  // string: why it takes no new work
	results  sync.Mutex    // held by the one results stream
}

// greet reads the Hello, checks it, registers the agent and welcomes it.
func (s *session) greet(parent context.Context) error {
	ctx, cancel := context.WithTimeout(parent, greetTimeout)
	defer cancel()
	// Closing the connection is what ends a Receive.
	defer context.AfterFunc(parent, func() { s.conn.Close("coordinator stops") })()
	hello, err := s.first(ctx)
	if err != nil {
		return err
	}
	welcome, err := s.register(ctx, hello)
	if err != nil {
		return err
	}
	s.revision.Store(hello.GetRevision())
	s.hub.enter(s)
	s.cut() // a denial that was applied since the handshake has not met it yet
	err = s.control.Send(&pb.FromCoordinator{Body: &pb.FromCoordinator_Welcome{Welcome: welcome}})
	if err != nil {
		s.hub.leave(s)
	}
	return err
}

// first reads the first message of the first stream, the hello.
func (s *session) first(ctx context.Context) (*pb.Hello, error) {
	const op = "greet agent"
	stream, err := s.conn.Accept(ctx)
	if err != nil {
		return nil, err
	}
	s.control = mesh.NewChannel(stream, maxControl)
	if err = s.control.SetReceiveDeadline(time.Now().Add(greetTimeout)); err != nil {
		return nil, err
	}
	var open pb.StreamOpen
	if err = s.control.Receive(&open); err != nil {
		return nil, err
	}
	if open.GetKind() != pb.StreamOpen_CONTROL {
		return nil, fault.New(fault.Garbage, op, fmt.Sprintf("its first stream is %v, not the control stream", open.GetKind()))
	}
	var first pb.FromAgent
	if err = s.control.Receive(&first); err != nil {
		return nil, err
	}
	hello := first.GetHello()
	if hello == nil {
		return nil, fault.New(fault.Garbage, op, "it does not begin with a hello")
	}
	if err = s.check(hello); err != nil {
		return nil, err
	}
	return hello, s.hub.welcomes(hello)
}

// check compares what the agent says with what its certificate proves.
func (s *session) check(hello *pb.Hello) error {
	const op = "greet agent"
	id, err := trust.IdentityOf(s.conn.Peer())
	if err != nil {
		return err
	}
	switch {
	case id.Role != trust.Agent:
		return fault.New(fault.Denied, op, fmt.Sprintf("the certificate is of %s, not of an agent", id))
	case id.Name != hello.GetAgent():
		return fault.New(fault.Denied, op, fmt.Sprintf("it says it is %q, its certificate is of %s", hello.GetAgent(), id)).
			WithHint("give the agent the name that its certificate has")
	}
	s.agent, s.id = id.Name, id
	switch {
	case hello.GetVersion() != Version:
		return fault.New(fault.Unsupported, op, fmt.Sprintf("it speaks version %d, this coordinator speaks %d", hello.GetVersion(), Version)).
			WithHint("run the same build of chiba on agents and coordinators")
	case hello.GetRack() != id.Rack:
		return fault.New(fault.Denied, op, fmt.Sprintf("it says its rack is %q, its certificate is for rack %s", hello.GetRack(), id.Rack)).
			WithHint("give the agent the rack that its certificate has, or a certificate for its rack")
	case hello.GetSite() != "" && hello.GetSite() != id.Site:
		return fault.New(fault.Denied, op, fmt.Sprintf("it says its site is %q, its certificate is for site %s", hello.GetSite(), id.Site)).
			WithHint("give the agent the site that its certificate has, or none")
	}
	const mostProof = 64 << 10
	if len(hello.GetSealProof()) > mostProof {
		return fault.New(fault.TooLarge, op, "the proof of its sealing key is too large")
	}
	if hello.GetPair() != "" && (!trust.ValidName(hello.GetPair()) || hello.GetPair() == id.Name) {
		return fault.New(fault.BadInput, op, fmt.Sprintf("%q can't be the other agent of its rack", hello.GetPair()))
	}
	hello.Site = id.Site // which it may have left out
	s.hello, s.rack, s.site, s.build, s.pair = hello, hello.GetRack(), id.Site, hello.GetBuild(), hello.GetPair()
	return checkKey(hello.GetSealKey())
}

// checkKey seals something to the key: one that can't be used would otherwise
// keep every script with a secret from everybody.
func checkKey(key []byte) error {
	if len(key) == 0 {
		return nil
	}
	_, err := seal.Seal([]seal.Recipient{{Key: key}}, "probe", fleet.NewSecret("probe"))
	return fault.Wrap(fault.BadInput, "greet agent: check its sealing key", err)
}

// register commits what is new about the agent, and is the welcome for it.
func (s *session) register(ctx context.Context, hello *pb.Hello) (*pb.Welcome, error) {
	greeting := talk.Greet(s.hub.conf.Machine, hello)
	if greeting.Old {
		s.hub.conf.Log.Warn("agent has an old spool", obs.Agent, s.agent, obs.Epoch, hello.GetSpoolEpoch())
	}
	var o state.Outcome
	if greeting.Command != nil {
		var err error
		if o, err = s.hub.conf.Commands.Propose(ctx, greeting.Command); err != nil || o.Err != nil {
			return nil, errors.Join(err, o.Err)
		}
	}
	hello.SealKey, hello.SealProof = nil, nil // they are kept where they are recorded
	w := greeting.Welcome(s.hub.conf.Machine, o)
	w.TimeUnixMs, w.Coordinator = time.Now().UnixMilli(), s.hub.conf.Name
	return w, nil
}

// refuse tells the agent why and ends the session.
func (s *session) refuse(err error) {
	if s.control != nil && s.conn.Err() == nil && s.control.Send(refusal(err)) == nil {
		// Closing at once would overtake the message: the agent closes when it
		// has read it.
		timer := time.NewTimer(farewell)
		defer timer.Stop()
		select {
		case <-s.conn.Done():
		case <-timer.C:
		}
	}
	s.conn.Close("refused: " + string(fault.KindOf(err)))
}

// run works until one part of the session fails or the session ends. The error
// says why.
func (s *session) run(parent context.Context) error {
	group, ctx := errgroup.WithContext(parent)
	// Closing the connection is what ends every Receive and Send.
	defer context.AfterFunc(ctx, func() { s.part(parent.Err() != nil) })()
	try := func(part func(context.Context) error) error {
		err := part(ctx)
		if ctx.Err() == nil && theirFault(err) {
			s.refuse(err)
		}
		return err
	}
	begin := func(part func(context.Context) error) { group.Go(func() error { return try(part) }) }
	begin(func(ctx context.Context) error { return s.accept(ctx, begin) })
	s.nudges.open(s.nudge, begin)
	s.lending.open(s.lend, begin)
	err := try(s.listen)
	s.nudges.shut()
	s.lending.shut()
	group.Go(func() error { return err }) // which ends the others
	err = group.Wait()
	s.conn.Close("session over")
	if cause := s.conn.Err(); err == nil || fault.Is(err, fault.Unavailable) && cause != nil {
		return cause
	}
	return err
}

// theirFault reports whether the agent should be told before the session ends.
func theirFault(err error) bool {
	switch fault.KindOf(err) {
	case fault.Garbage, fault.TooLarge, fault.Conflict, fault.Denied, fault.NotFound, fault.BadInput, fault.Unsupported:
		return true
	default:
		return false
	}
}

// part ends the connection. An agent is told to go elsewhere if this process
// ends, and has a moment to do so.
func (s *session) part(stopping bool) {
	defer s.conn.Close("session over")
	if !stopping {
		return
	}
	s.drain("the coordinator stops")
}

// drain tells the agent to go to another coordinator, and gives it a moment to.
func (s *session) drain(reason string) {
	timer := time.AfterFunc(farewell, func() { s.conn.Close(reason) })
	defer timer.Stop()
	if s.control.Send(&pb.FromCoordinator{Body: &pb.FromCoordinator_Drain{Drain: &pb.Drain{Reason: reason}}}) == nil {
		<-s.conn.Done()
	}
}

// listen takes what comes on the control stream.
func (s *session) listen(ctx context.Context) error {
	for {
		if err := s.control.SetReceiveDeadline(time.Now().Add(s.hub.conf.Idle)); err != nil {
			return err
		}
		var m pb.FromAgent
		if err := s.control.Receive(&m); err != nil {
			return err
		}
		var err error
		switch b := m.GetBody().(type) {
		case *pb.FromAgent_Ping:
			s.told(b.Ping.GetTrouble())
			err = s.control.Send(&pb.FromCoordinator{Body: &pb.FromCoordinator_Pong{Pong: &pb.Pong{SentUnixMs: b.Ping.GetSentUnixMs()}}})
		case *pb.FromAgent_Pull:
			err = apart(func() error { return s.pull(ctx, b.Pull) })
		case *pb.FromAgent_Renew:
			err = s.control.Send(&pb.FromCoordinator{Body: &pb.FromCoordinator_Renewed{Renewed: s.renew(ctx, b.Renew)}})
		case *pb.FromAgent_Progress:
			s.hub.progressed(s.rack, b.Progress)
		case *pb.FromAgent_Lease:
			s.ask(b.Lease)
		case *pb.FromAgent_Hello:
			err = fault.New(fault.Garbage, "listen to agent", "a second hello")
		default: // something that a later version says
		}
		if err != nil {
			return err
		}
	}
}

// told takes what an agent says of its trouble. A change is news for people.
func (s *session) told(trouble string) {
	const most = 512
	if len(trouble) > most {
		trouble = strings.ToValidUTF8(trouble[:most], "")
	}
	if before, _ := s.trouble.Swap(trouble).(string); before != trouble {
		s.hub.publish(s.status(true))
	}
}

// pull answers with the desired state, when what the agent has denied is recorded.
func (s *session) pull(ctx context.Context, q *pb.Pull) error {
	settled, err := s.heardDenials(ctx, q.GetDenied())
	if err != nil {
		return err
	}
	return s.desired(q, settled)
}

// desired sends the desired state of the rack.
func (s *session) desired(pull *pb.Pull, settled []string) error {
	d := talk.Desired(s.hub.conf.Machine, s.hello, pull)
	d.Settled = settled
	if s.hub.conf.Checkpoint != nil {
		var err error
		if d.Audit, err = s.hub.conf.Checkpoint(pull.GetAuditSize()); err != nil {
			return err
		}
	}
	if err := s.control.Send(&pb.FromCoordinator{Body: &pb.FromCoordinator_Desired{Desired: d}}); err != nil {
		return err
	}
	s.revision.Store(d.GetRevision())
	s.hub.version.Add(1)
	return nil
}

// hint wakes the agent, soon; hints that come together are one.
func (s *session) hint() {
	s.hinted.Store(true)
	s.nudges.wake()
}

// nudge tells the agent what it is to know.
func (s *session) nudge(context.Context) error {
	select {
	case err := <-s.denied:
		s.conn.Close("denied: " + err.Error())
		return err
	case reason := <-s.drains:
		s.drain(reason)
		return fault.New(fault.Unavailable, "serve the agent", reason)
	default:
	}
	if !s.hinted.Swap(false) {
		return nil
	}
	return s.control.Send(talk.Hint(s.hub.conf.Machine))
}

// accept takes the streams that the agent opens after the first: the one with
// its results. Each is a part of the session; its stream limit bounds them.
func (s *session) accept(ctx context.Context, begin func(part func(context.Context) error)) error {
	for {
		stream, err := s.conn.Accept(ctx)
		if err != nil {
			return err
		}
		begin(func(ctx context.Context) error { return s.stream(ctx, stream) })
	}
}

func (s *session) stream(ctx context.Context, stream mesh.Stream) error {
	const op = "accept stream"
	defer func() { _ = stream.Close() }()
	ch := mesh.NewChannel(stream, maxBatch)
	if err := ch.SetReceiveDeadline(time.Now().Add(greetTimeout)); err != nil {
		return err
	}
	var open pb.StreamOpen
	if err := ch.Receive(&open); err != nil {
		return err
	}
	if open.GetKind() != pb.StreamOpen_RESULTS {
		return fault.New(fault.Garbage, op, fmt.Sprintf("the agent opens a stream of kind %v", open.GetKind()))
	}
	if !s.results.TryLock() {
		return fault.New(fault.Garbage, op, "a second results stream")
	}
	defer s.results.Unlock()
	if err := ch.SetReceiveDeadline(time.Time{}); err != nil { // the control stream tells whether the agent lives
		return err
	}
	err := s.record(ctx, ch)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// record commits batch after batch and acknowledges each when it was applied.
// While it waits for the log it reads nothing, and flow control holds the agent
// back.
func (s *session) record(ctx context.Context, ch *mesh.Channel) error {
	for {
		var batch pb.RecordBatch
		if err := ch.Receive(&batch); err != nil {
			return err
		}
		command, err := talk.Record(s.hello, &batch)
		if err != nil {
			return err
		}
		o, err := s.commit(ctx, command)
		if err = errors.Join(err, o.Err); err != nil {
			return err
		}
		for _, d := range o.Dropped {
			s.hub.conf.Log.Warn("record dropped", obs.Agent, s.agent, obs.Seq, d.Seq, obs.Reason, d.Reason)
		}
		if err := s.control.Send(talk.Ack(&batch, o)); err != nil {
			return err
		}
	}
}

// commit has a batch recorded. While nothing can be decided it tries again: an agent
// whose session ended for that would come back at once, with all the others. A batch
// that was committed after all is not recorded twice.
func (s *session) commit(ctx context.Context, c *pb.Command) (state.Outcome, error) {
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		o, err := s.hub.conf.Commands.Propose(ctx, c)
		if !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.Timeout) {
			return o, err
		}
		s.hub.conf.Log.Debug("records wait until something can be decided", obs.Agent, s.agent, obs.Err, err)
		timer := time.NewTimer(pause/2 + rand.N(pause/2)) //nolint:gosec // jitter
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return o, ctx.Err()
		case <-s.conn.Done():
			timer.Stop()
			return o, err
		}
	}
}

// status is the session for people.
func (s *session) status(connected bool) *pb.AgentStatus {
	since := s.since
	if !connected {
		since = time.Now()
	}
	trouble, _ := s.trouble.Load().(string)
	return &pb.AgentStatus{
		Trouble: trouble, Name: s.agent, Rack: s.rack, Site: s.site, Build: s.build, Connected: connected,
		SinceUnixMs: since.UnixMilli(), Remote: s.conn.Remote(), Revision: s.revision.Load(),
		Coordinator: s.hub.conf.Name, Pair: s.pair,
		KeyKind: trustenroll.KeySoftware, CertEndsUnixMs: s.conn.Peer().NotAfter.UnixMilli(),
	}
}

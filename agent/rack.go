package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/agent/local"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/agent/story"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/compile"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	// lookAtProgress is how often a run that is watched is looked at: its progress is
	// no record.
	lookAtProgress = 200 * time.Millisecond
	pastFirings    = 100
)

// methods are what a person can do at the agent's own door.
func (a *Agent) methods() map[string]local.Method {
	return map[string]local.Method{
		"Plan": local.Stream(func(ctx context.Context, q *pb.PlanRequest, send func(*pb.QueryReply) error) error {
			return a.answer(ctx, request{file: q.GetFile(), source: q.GetSource(), allowEmpty: q.GetAllowEmpty()}, q.GetName(), send)
		}),
		"Show": local.Stream(func(ctx context.Context, q *pb.ShowRequest, send func(*pb.QueryReply) error) error {
			return a.answer(ctx, request{file: q.GetFile(), source: q.GetSource(), allowEmpty: q.GetAllowEmpty(), readOnly: true}, "", send)
		}),
		"Prepare":      local.Unary(a.prepare),
		"Apply":        local.Unary(a.applyHere),
		"RemoveScript": local.Unary(a.removeHere),
		"CancelRun":    local.Unary(a.cancelHere),

		"Watch":            local.Stream(a.watchHere),
		"WatchRun":         local.Stream(a.watchRun),
		"ListNodes":        local.Unary(a.listNodes),
		"ListAgents":       local.Unary(a.listAgents),
		"ListScripts":      local.Unary(a.listScripts),
		"GetScript":        local.Unary(a.getScript),
		"ListRuns":         local.Unary(a.listRuns),
		"GetRun":           local.Unary(a.getRun),
		"ListFirings":      local.Unary(a.listFirings),
		"ListHardwareNews": local.Unary(a.listNews),
		"ReadAudit":        local.Unary(a.readAudit),
		"GetPolicy":        local.Unary(a.getPolicy),
		"Status":           local.Unary(a.status),
	}
}

// request is a script that a person has sent.
type request struct {
	file       string
	source     []byte
	allowEmpty bool
	readOnly   bool
}

// check says what is wrong with a script, as a coordinator would. It knows the names
// of this rack alone.
func (a *Agent) check(r request) (*scl.Program, *pb.Diagnostics, error) {
	program, diags := compile.Source(r.file, r.source)
	if program != nil && !r.allowEmpty {
		diags = append(diags, compile.Names(r.source, program, a.known())...)
	}
	if program != nil && r.readOnly {
		diags = append(diags, compile.Reading(r.file, r.source, program)...)
	}
	if diags.Errors() == 0 && program.Readable() {
		return nil, nil, fault.New(fault.BadInput, "read the script", "a secret in it can be read by anybody on its way").
			WithHint("send it with chiba, which seals secrets before they leave it")
	}
	return program, &pb.Diagnostics{Text: diags.String(), Json: diags.JSON(), Errors: int32(diags.Errors())}, nil
}

func (a *Agent) known() compile.Known {
	k := compile.Known{Racks: []string{string(a.cfg.Rack)}, Sites: []string{string(a.cfg.Site)}}
	for _, n := range a.rack.members() {
		k.Nodes = append(k.Nodes, string(n.entry.Name))
	}
	if p := a.listing.said(); p.Listed() {
		k.Sites = append(k.Sites, string(p.Site.Name))
	}
	for name := range a.chooser(nil).groups {
		k.Groups = append(k.Groups, name)
	}
	return k
}

// prepare tells an author what an order that is given here must say: it is for this
// rack alone, and so are the secrets in it.
func (a *Agent) prepare(_ context.Context, q *pb.PrepareRequest) (*pb.PrepareReply, error) {
	name := cmp.Or(q.GetName(), scriptName(q.GetFile()))
	version, err := a.lastVersion(name)
	answer := &pb.PrepareReply{Name: name, Version: version, Audience: []string{string(a.cfg.Rack)}}
	if err != nil || len(q.GetSource()) == 0 {
		return answer, err
	}
	_, found, err := a.check(request{file: q.GetFile(), source: q.GetSource(), allowEmpty: q.GetAllowEmpty()})
	if err != nil {
		return nil, err
	}
	if answer.Diagnostics = found; found.GetErrors() > 0 {
		return answer, nil
	}
	_, proof, err := a.sealKey()
	answer.Racks = []*pb.SealKey{{Rack: string(a.cfg.Rack), Proof: proof}}
	return answer, err
}

// answer answers a plan or a show.
func (a *Agent) answer(ctx context.Context, r request, name string, send func(*pb.QueryReply) error) error {
	_, found, err := a.check(r)
	if err != nil {
		return err
	}
	rack := string(a.cfg.Rack)
	if found.GetErrors() > 0 {
		return send(&pb.QueryReply{Body: &pb.QueryReply_Diagnostics{Diagnostics: found}})
	}
	if err = send(&pb.QueryReply{Body: &pb.QueryReply_Racks_{Racks: &pb.QueryReply_Racks{Asked: []string{rack}}}}); err != nil {
		return err
	}
	var mu sync.Mutex // nodes answer at the same time
	done := a.Query(ctx, &pb.Query{File: r.file, Source: r.source, Plan: !r.readOnly, Script: name}, func(e *pb.QueryEvent) error {
		mu.Lock()
		defer mu.Unlock()
		return send(replyOf(rack, e))
	})
	return send(&pb.QueryReply{Rack: rack, Body: &pb.QueryReply_Ended_{Ended: &pb.QueryReply_Ended{
		Nodes: done.GetNodes(), Failed: done.GetFailed(), Kind: done.GetKind(), Error: done.GetError(), Hint: done.GetHint(),
	}}})
}

// replyOf is an event of a query as people get it.
func replyOf(rack string, e *pb.QueryEvent) *pb.QueryReply {
	r := &pb.QueryReply{Rack: rack}
	switch b := e.GetBody().(type) {
	case *pb.QueryEvent_Started_:
		r.Body = &pb.QueryReply_Started_{Started: &pb.QueryReply_Started{Nodes: b.Started.GetNodes()}}
	case *pb.QueryEvent_Change:
		r.Body = &pb.QueryReply_Change{Change: b.Change}
	case *pb.QueryEvent_Result:
		r.Body = &pb.QueryReply_Result{Result: b.Result}
	}
	return r
}

func (a *Agent) listNodes(context.Context, *pb.ListNodesRequest) (*pb.ListNodesReply, error) {
	reply := &pb.ListNodesReply{}
	for _, n := range a.rack.members() {
		reply.Nodes = append(reply.Nodes, wire.ToNode(a.view(n)))
	}
	return reply, nil
}

func (a *Agent) listAgents(context.Context, *pb.ListAgentsRequest) (*pb.ListAgentsReply, error) {
	return &pb.ListAgentsReply{Agents: []*pb.AgentStatus{a.self()}}, nil
}

// self is the agent as it sees itself.
func (a *Agent) self() *pb.AgentStatus {
	connected, since := a.link.Connected()
	a.standing.mu.Lock()
	revision := a.standing.revision
	a.standing.mu.Unlock()
	s := &pb.AgentStatus{
		Name: string(a.cfg.Name), Rack: string(a.cfg.Rack), Site: string(a.cfg.Site), Build: build(),
		Connected: connected, SinceUnixMs: since.UnixMilli(), Revision: revision, Trouble: a.trouble(),
	}
	if !connected {
		s.SinceUnixMs = a.cutSince().UnixMilli()
	}
	if creds, err := a.cfg.credentials(); err == nil {
		s.CertEndsUnixMs = creds.Certificate.Leaf.NotAfter.UnixMilli()
	}
	return s
}

// trouble is why the agent takes no new work, in words; "": it does.
func (a *Agent) trouble() string {
	if err := a.spool.Full(); err != nil {
		return err.Error()
	}
	return ""
}

func (a *Agent) listScripts(context.Context, *pb.ListScriptsRequest) (*pb.ListScriptsReply, error) {
	reply := &pb.ListScriptsReply{}
	a.standing.mu.Lock()
	defer a.standing.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(a.standing.scripts)) {
		s := a.standing.scripts[name]
		reply.Scripts = append(reply.Scripts, &pb.Script{
			Name: s.GetName(), File: s.GetFile(), Digest: s.GetDigest(), Revision: s.GetRevision(), Version: s.GetVersion(),
			AppliedUnixMs: s.GetAppliedUnixMs(), AppliedBy: s.GetAppliedBy(), Rack: s.GetRack(),
		})
	}
	return reply, nil
}

func (a *Agent) getScript(_ context.Context, q *pb.GetScriptRequest) (*pb.Script, error) {
	a.standing.mu.Lock()
	defer a.standing.mu.Unlock()
	if s := a.standing.scripts[q.GetName()]; s != nil {
		return s.Script, nil
	}
	return nil, fault.New(fault.NotFound, "get script", fmt.Sprintf("no script named %q stands on this rack", q.GetName())).
		WithHint("see which do: chiba --agent get scripts")
}

// told is the story of the rack so far, with the results of one run.
func (a *Agent) told(only string) (*story.Story, *reader, error) {
	r := &reader{spool: a.spool, story: story.New(string(a.cfg.Name), string(a.cfg.Rack), only)}
	if err := r.read(nil); err != nil {
		return nil, nil, err
	}
	going, err := a.accepted()
	for _, run := range going {
		r.story.Begin(run)
	}
	return r.story, r, err
}

// reader reads the spool on from where it stopped.
type reader struct {
	spool *spool.Spool
	story *story.Story
	epoch uint64
	next  uint64
}

// read takes in what is new, and tells each of it, with the run that it has changed.
func (r *reader) read(tell func(*pb.Record, *pb.Run) error) error {
	var news []*pb.Record
	err := r.spool.View(func(tx *spool.Tx) error {
		c := tx.Cursor()
		if r.epoch != 0 && r.epoch != c.Epoch {
			return fault.New(fault.Unavailable, "read the spool", "it has begun anew").WithHint("start again")
		}
		for record, err := range tx.Records(r.next) {
			if err != nil {
				return err
			}
			if tell != nil {
				news = append(news, record)
			} else {
				r.story.Take(record)
			}
		}
		r.epoch, r.next = c.Epoch, c.Next
		return nil
	})
	for _, record := range news { // outside: who listens may be slow
		if err == nil {
			err = tell(record, r.story.Take(record))
		}
	}
	return err
}

func (a *Agent) listRuns(context.Context, *pb.ListRunsRequest) (*pb.ListRunsReply, error) {
	s, _, err := a.told("")
	if err != nil {
		return nil, err
	}
	return &pb.ListRunsReply{Runs: s.Runs()}, nil
}

func (a *Agent) getRun(_ context.Context, q *pb.GetRunRequest) (*pb.GetRunReply, error) {
	s, _, err := a.told(q.GetId())
	if err != nil {
		return nil, err
	}
	run := s.Run(q.GetId())
	if run == nil {
		return nil, noRun(q.GetId())
	}
	return &pb.GetRunReply{Run: run, Results: s.Results(0)}, nil
}

func noRun(id string) error {
	return fault.New(fault.NotFound, "get run", fmt.Sprintf("this rack remembers no run %q", id)).
		WithHint("see which there are: chiba --agent get runs")
}

func (a *Agent) listFirings(context.Context, *pb.ListFiringsRequest) (*pb.ListFiringsReply, error) {
	s, _, err := a.told("")
	if err != nil {
		return nil, err
	}
	return &pb.ListFiringsReply{Firings: s.Firings()}, nil
}

func (a *Agent) listNews(context.Context, *pb.ListHardwareNewsRequest) (*pb.ListHardwareNewsReply, error) {
	s, _, err := a.told("")
	if err != nil {
		return nil, err
	}
	return &pb.ListHardwareNewsReply{News: s.News()}, nil
}

// readAudit tells who did what, as far as it is on this disk. It is no Merkle log and
// has no checkpoint: the coordinators' is made of these records.
func (a *Agent) readAudit(_ context.Context, q *pb.ReadAuditRequest) (*pb.ReadAuditReply, error) {
	s, _, err := a.told("")
	if err != nil {
		return nil, err
	}
	all := s.Audit()
	return &pb.ReadAuditReply{Records: all[min(max(q.GetFrom(), 0), int64(len(all))):]}, nil
}

func (a *Agent) getPolicy(context.Context, *pb.GetPolicyRequest) (*pb.GetPolicyReply, error) {
	a.authority.mu.Lock()
	defer a.authority.mu.Unlock()
	return &pb.GetPolicyReply{Envelope: a.authority.envelope}, nil
}

func (a *Agent) status(context.Context, *pb.StatusRequest) (*pb.StatusReply, error) {
	s := a.self()
	connected := int32(0)
	if s.GetConnected() {
		connected = 1
	}
	return &pb.StatusReply{Build: s.GetBuild(), Revision: s.GetRevision(), Agents: 1, Connected: connected, Nodes: int32(len(a.rack.members()))}, nil
}

// watchHere tells what happens on the rack as it happens.
func (a *Agent) watchHere(ctx context.Context, q *pb.WatchRequest, send func(*pb.Event) error) error {
	s, r, err := a.told("")
	if err != nil {
		return err
	}
	if q.GetPast() {
		firings := s.Firings()
		for _, f := range firings[max(0, len(firings)-pastFirings):] {
			if err = send(&pb.Event{AtUnixMs: f.GetAtUnixMs(), Body: &pb.Event_Firing{Firing: f}}); err != nil {
				return err
			}
		}
	}
	for {
		more := a.spool.Appended() // before it is read: what comes meanwhile is news
		err := r.read(func(record *pb.Record, run *pb.Run) error {
			if e := story.Event(record, run, string(a.cfg.Rack)); e != nil {
				return send(e)
			}
			return nil
		})
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-more:
		}
	}
}

// watchRun tells of a run from its beginning until it has ended: the run first, its
// results, and the run again when it has changed, at last after all its results.
func (a *Agent) watchRun(ctx context.Context, q *pb.WatchRunRequest, send func(*pb.RunEvent) error) error {
	s, r, err := a.told(q.GetId())
	if err != nil {
		return err
	}
	if s.Run(q.GetId()) == nil {
		return noRun(q.GetId())
	}
	tick := time.NewTicker(lookAtProgress)
	defer tick.Stop()
	f := follower{story: s, id: q.GetId(), send: send}
	for {
		more := a.spool.Appended()
		if err = r.read(func(*pb.Record, *pb.Run) error { return nil }); err != nil {
			return err
		}
		ended, err := f.step(a.runs.progress(q.GetId(), a.cfg.Rack))
		if err != nil || ended {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-more:
		case <-tick.C:
		}
	}
}

// follower tells one watcher what is new about a run.
type follower struct {
	story *story.Story
	id    string
	send  func(*pb.RunEvent) error

	run      *pb.Run // as last told
	results  int     // told
	progress *pb.RackProgress
}

func (f *follower) step(p *pb.RackProgress) (ended bool, err error) {
	run := f.story.Run(f.id)
	if f.run == nil {
		err = f.tell(run)
	}
	for _, res := range f.story.Results(f.results) {
		if err == nil {
			err = f.send(&pb.RunEvent{Body: &pb.RunEvent_Result{Result: res}})
		}
		f.results++
	}
	if err == nil && p != nil && !proto.Equal(p, f.progress) {
		f.progress = p
		err = f.send(&pb.RunEvent{Body: &pb.RunEvent_Progress{Progress: p}})
	}
	if err == nil && f.run != run {
		err = f.tell(run)
	}
	return run.GetEndedUnixMs() != 0, err
}

func (f *follower) tell(run *pb.Run) error {
	f.run = run
	return f.send(&pb.RunEvent{Body: &pb.RunEvent_Run{Run: story.WithoutSource(run)}})
}

// openDoor makes the agent's own door, unless there is to be none.
func (a *Agent) openDoor() {
	if path := a.cfg.socket(); path != "" {
		a.door = local.New(local.Config{Path: path, Methods: a.methods(), Log: a.log})
	}
}

// answerPeople answers at the agent's own door until ctx ends.
func (a *Agent) answerPeople(ctx context.Context) error {
	if a.door == nil {
		return nil
	}
	return a.door.Run(ctx)
}

// connected reports whether a coordinator is reached.
func (a *Agent) connected() bool {
	connected, _ := a.link.Connected()
	return connected
}

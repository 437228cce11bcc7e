package state

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust/audit"
)

// MaxAgentAudit is how many records one agent may bring about: an agent in bad
// hands must not fill the memory of the coordinators. The last one says so.
const MaxAgentAudit = 100_000

// journal is the audit log: what the commands did, who asked for it, and when. Like
// all of the state it is a function of the commands.
type journal struct {
	log audit.Log
	by  map[string]int // how many records are of an agent
}

func newJournal() *journal { return &journal{by: map[string]int{}} }

// add takes a leaf from a snapshot.
func (j *journal) add(leaf []byte) error {
	r, err := audit.Decode(leaf)
	if err != nil {
		return err
	}
	j.by[r.By]++
	return j.log.Add(leaf)
}

func (j *journal) append(r audit.Record) error {
	if strings.HasPrefix(r.By, agentPrefix) {
		switch n := j.by[r.By]; {
		case n > MaxAgentAudit:
			return nil
		case n == MaxAgentAudit:
			r = audit.Record{At: r.At, By: r.By, What: "too many records", Detail: "later ones of this agent are not kept"}
		}
	}
	j.by[r.By]++
	return j.log.Append(r)
}

const (
	agentPrefix       = "agent "
	operatorPrefix    = "operator "
	coordinatorItself = "coordinator"
)

// note records what a command has done; before is the agent that it is about, as
// it was.
func (j *journal) note(c *pb.Command, o Outcome, before *pb.AgentInfo) error {
	for _, r := range notes(c, o, before) {
		r.At = c.GetAtUnixMs()
		if err := j.append(r); err != nil {
			return err
		}
	}
	return nil
}

func notes(c *pb.Command, o Outcome, before *pb.AgentInfo) []audit.Record {
	by := coordinatorItself
	if c.GetBy() != "" {
		by = operatorPrefix + c.GetBy()
	}
	one := func(what, subject, digest, detail string) []audit.Record {
		return []audit.Record{{By: by, What: what, Subject: subject, Digest: digest, Detail: detail}}
	}
	switch b := c.GetBody().(type) {
	case *pb.Command_ApplyScript, *pb.Command_PutScript, *pb.Command_StartRun:
		name, version := cmp.Or(o.Script.GetName(), o.Run.GetScript()), cmp.Or(o.Script.GetVersion(), o.Run.GetVersion())
		what := "run"
		if o.Script != nil {
			what = "apply"
		}
		return one(what, "script "+name, cmp.Or(o.Script.GetDigest(), o.Run.GetDigest()), fmt.Sprintf("version %d, run %s", version, o.Run.GetId()))
	case *pb.Command_RemoveScript:
		return one("remove", "script "+b.RemoveScript.GetName(), order.Digest(b.RemoveScript.GetEnvelope()), fmt.Sprintf("version %d", b.RemoveScript.GetVersion()))
	case *pb.Command_CancelRun:
		return one("cancel", "run "+b.CancelRun.GetId(), "", "script "+o.Run.GetScript())
	case *pb.Command_SteerRun:
		if act := b.SteerRun.GetAct(); act == "" || act == CutOff { // the clock did it, or a cut
			return nil
		}
		return one(b.SteerRun.GetAct(), "run "+b.SteerRun.GetId(), "", "script "+o.Run.GetScript())
	case *pb.Command_PutPolicy:
		return one("policy", "authors", order.Digest(b.PutPolicy.GetEnvelope()), fmt.Sprintf("version %d", b.PutPolicy.GetVersion()))
	case *pb.Command_PutArtifact:
		return one("add", "artifact "+o.Artifact.GetName(), o.Artifact.GetDigest(), fmt.Sprintf("%d bytes", o.Artifact.GetSize()))
	case *pb.Command_RemoveArtifact:
		return one("remove", "artifact "+o.Artifact.GetName(), o.Artifact.GetDigest(), "")
	case *pb.Command_PutCatalogue:
		return one("catalogue", "the site catalogue", o.Catalogue.GetDigest(), fmt.Sprintf("version %d, %d parts", o.Catalogue.GetVersion(), len(o.Catalogue.GetParts())))
	case *pb.Command_PutSiteKey:
		k := b.PutSiteKey.GetKey()
		return one("new gossip key", "site "+k.GetSite(), "", fmt.Sprintf("for %d agents", len(k.GetSealed())))
	case *pb.Command_PutAgent:
		return joined(b.PutAgent.GetAgent(), before)
	case *pb.Command_OwnRack:
		return one("own", "rack "+o.Owner.GetRack(), "", fmt.Sprintf("agent %s in epoch %s: %s", o.Owner.GetAgent(), Epoch(o.Owner), o.Owner.GetWhy()))
	case *pb.Command_RecordResults:
		return reported(b.RecordResults, o)
	case *pb.Command_PutToken:
		return one("join token", "rack "+o.Token.GetRack(), "", fmt.Sprintf("token %s for agent %s until %s", o.Token.GetId(), o.Token.GetName(), clock(o.Token.GetUntilUnixMs())))
	case *pb.Command_RevokeToken:
		return one("revoke join token", "rack "+o.Token.GetRack(), "", "token "+o.Token.GetId())
	case *pb.Command_JudgeJoin:
		what := "deny to join"
		if o.Pending.GetApproved() {
			what = "approve to join"
		}
		return one(what, "agent "+o.Pending.GetName()+" rack "+o.Pending.GetRack(), hex.EncodeToString(o.Pending.GetSpki()), "from "+o.Pending.GetRemote())
	case *pb.Command_EnrolAgent, *pb.Command_RenewAgent:
		return identified(o)
	}
	return nil
}

// joined says what is new about an agent. That it is back is no news.
func joined(a, before *pb.AgentInfo) []audit.Record {
	r := audit.Record{By: agentPrefix + a.GetName(), Subject: "rack " + a.GetRack()}
	switch {
	case before == nil:
		r.What = "join"
	case string(before.GetSealKey()) != string(a.GetSealKey()):
		r.What = "new sealing key"
	case a.GetSpoolEpoch() > before.GetSpoolEpoch():
		r.What = "new spool"
	default:
		return nil
	}
	if len(a.GetSealKey()) > 0 {
		r.Digest = order.Digest(a.GetSealKey())
	}
	return []audit.Record{r}
}

// identified says who was enrolled or locked. A renewal is no news.
func identified(o Outcome) []audit.Record {
	if !o.fresh {
		return nil
	}
	e := o.Enrolment
	r := audit.Record{
		By: coordinatorItself, What: "enrol", Subject: "agent " + e.GetName() + " rack " + e.GetRack(),
		Digest: hex.EncodeToString(e.GetSpki()), Detail: "approved by " + e.GetBy(),
	}
	switch {
	case e.GetLocked() != "":
		r.What, r.Detail = "lock", e.GetLocked()
	case e.GetToken() != "":
		r.Detail = "token " + e.GetToken() + " of " + e.GetBy()
	}
	return []audit.Record{r}
}

// reported says what of an agent's records concerns trust. A record that came twice
// is noted once.
func reported(b *pb.RecordResults, o Outcome) (out []audit.Record) {
	for _, r := range b.GetRecords() {
		if r.GetSeq() < o.firstTaken {
			continue
		}
		note, news := audit.Reported(r)
		if !news {
			continue
		}
		note.By = agentPrefix + b.GetAgent()
		if became := o.became[r.GetSeq()]; became != "" {
			note.Detail += ": " + became
		}
		out = append(out, note)
	}
	return out
}

// AuditHead is the audit log as it is, and the proof that it goes on from its first
// from records; nil if there is none.
func (m *Machine) AuditHead(from int64) (head audit.Tree, proof [][]byte, err error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	log := &m.audit.log
	if head, err = log.Head(log.Size()); err != nil {
		return head, nil, err
	}
	proof, err = log.Prove(from)
	return head, proof, err
}

// Audit are at most most records of the audit log from number from on, as JSON.
func (m *Machine) Audit(from, most int64) [][]byte {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.audit.log.Leaves(from, most)
}

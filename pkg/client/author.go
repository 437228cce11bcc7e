package client

import (
	"context"
	"encoding/json"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/compile"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/pkg/wire/pb/pbconnect"
)

// Of a run whose author asks for none.
const (
	runTimeout     = time.Hour
	rolloutTimeout = 24 * time.Hour
)

// Author makes of a script what agents obey. It is the one who holds the keys; a
// coordinator only carries what an author has made. trust/author has one.
type Author interface {
	// Seal hides a secret for the agents of racks, for one use. It believes a key
	// by its proof alone.
	Seal(racks []SealKey, use string, plain fleet.Secret) (string, error)
	// Sign signs an order.
	Sign(o order.Order) (envelope []byte, err error)
}

// SealKey is what a coordinator says of the key that secrets for a rack are
// sealed to.
type SealKey struct {
	Rack  fleet.RackName
	Proof []byte // by the rack's agent; see trust/seal
}

// Signed is a script with the signed order for it.
type Signed struct {
	Envelope []byte // DSSE as JSON
	Source   []byte // with its secrets sealed: the exact bytes that the order is for
	// Gone are of a site catalogue: racks that were in an earlier one. Nobody signs
	// them by themselves; they are what its parts are made with.
	Gone []string
}

// signedFile is a Signed on disk: a DSSE envelope with the script beside it, which
// other readers of DSSE ignore.
type signedFile struct {
	PayloadType string          `json:"payloadType"`
	Payload     string          `json:"payload"`
	Signatures  json.RawMessage `json:"signatures"`
	Source      []byte          `json:"source"`
	Gone        []string        `json:"gone,omitempty"`
}

// Encode is the form of s that is kept in a file and given to another author.
func (s Signed) Encode() ([]byte, error) {
	var f signedFile
	if err := json.Unmarshal(s.Envelope, &f); err != nil {
		return nil, fault.Wrap(fault.Garbage, "write signed script", err)
	}
	f.Source, f.Gone = s.Source, s.Gone
	data, err := json.MarshalIndent(f, "", "  ")
	return append(data, '\n'), fault.Wrap(fault.Internal, "write signed script", err)
}

// DecodeSigned reads what Encode wrote. It verifies nothing.
func DecodeSigned(data []byte) (Signed, error) {
	var f signedFile
	if err := json.Unmarshal(data, &f); err != nil || f.PayloadType == "" {
		return Signed{}, fault.New(fault.BadInput, "read signed script", "it is not one").
			WithHint("make one with: chiba apply --prepare FILE.dsse SCRIPT")
	}
	source := f.Source
	envelope, err := json.Marshal(struct {
		PayloadType string          `json:"payloadType"`
		Payload     string          `json:"payload"`
		Signatures  json.RawMessage `json:"signatures"`
	}{f.PayloadType, f.Payload, f.Signatures})
	return Signed{Envelope: envelope, Source: source, Gone: f.Gone}, fault.Wrap(fault.Internal, "read signed script", err)
}

// Order is what the envelope says, of which nothing is verified: to show it.
func (s Signed) Order() (order.Order, error) {
	var f struct {
		Payload []byte `json:"payload"`
	}
	if err := json.Unmarshal(s.Envelope, &f); err != nil {
		return order.Order{}, fault.Wrap(fault.Garbage, "read signed script", err)
	}
	return order.Decode(f.Payload)
}

func (c *Client) noAuthor(op string) error {
	return fault.New(fault.Denied, op, "there is no author key, and agents run only what is signed").
		WithHint("make one with: chiba trust author init, have it put into the policy of authors, and name it in " + c.context.file)
}

// prepare asks what it takes to write an order for a script.
func (c *Client) prepare(ctx context.Context, s Source, name string) (*pb.PrepareReply, error) {
	a, err := call(ctx, c, "prepare "+s.File, pbconnect.FleetClient.Prepare, &pb.PrepareRequest{Name: name, File: s.File, Source: s.Text, AllowEmpty: s.AllowEmpty})
	if err != nil {
		return nil, err
	}
	if a.GetDiagnostics().GetErrors() > 0 {
		return nil, scriptError(a.GetDiagnostics())
	}
	return a, nil
}

// sealed is a script that can leave this machine.
type sealed struct {
	source   []byte // no secret can be read in it
	standing bool
	waves    bool // it is carried out in waves
	secrets  bool // it has some
}

// blank takes the secrets out of a script. One that is wrong is not sent: nobody
// knows where its secrets are.
func blank(s Source) (*sealed, *scl.Program, error) {
	program, diags := compile.Source(s.File, s.Text)
	if diags.Errors() > 0 {
		return nil, nil, &ScriptError{Text: diags.String(), JSON: diags.JSON(), Errors: diags.Errors()}
	}
	out := &sealed{standing: program.Standing(), waves: program.Rollout != nil}
	var err error
	out.source, err = compile.Rewrite(s.Text, program, func(scl.Secret) (string, error) {
		out.secrets = true
		return "-", nil
	})
	return out, program, err
}

// seal has every secret of s sealed for the racks that it concerns, which the
// coordinator is asked for with none of them.
func (c *Client) seal(ctx context.Context, s Source, name string) (*sealed, *pb.PrepareReply, error) {
	out, program, err := blank(s)
	if err != nil {
		return nil, nil, err
	}
	p, err := c.prepare(ctx, Source{File: s.File, Text: out.source, AllowEmpty: s.AllowEmpty}, name)
	if err != nil || !out.secrets {
		return out, p, err
	}
	if c.author == nil {
		return nil, nil, c.noAuthor("seal the secrets of " + s.File)
	}
	keys := list(p.GetRacks(), func(k *pb.SealKey) SealKey { return SealKey{fleet.RackName(k.GetRack()), k.GetProof()} })
	program.Bind(p.GetName())
	out.source, err = compile.Rewrite(s.Text, program, func(secret scl.Secret) (string, error) {
		return c.author.Seal(keys, secret.Use, secret.Literal)
	})
	return out, p, err
}

// Prepare has the secrets of a script sealed and an order for it signed, and
// changes nothing.
func (c *Client) Prepare(ctx context.Context, s Source, o ApplyOptions) (*Signed, error) {
	if c.author == nil {
		return nil, c.noAuthor("sign " + s.File)
	}
	x, prepared, err := c.seal(ctx, s, o.Name)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	timeout := o.Timeout
	switch {
	case timeout > 0:
	case x.waves:
		timeout = rolloutTimeout
	default:
		timeout = runTimeout
	}
	written := order.Order{
		Kind: order.Run, Name: prepared.GetName(), File: s.File, Digest: order.Digest(x.source), AllowEmpty: s.AllowEmpty,
		NotAfter: now.Add(timeout).UTC().Truncate(time.Millisecond), Audience: racksOf(prepared),
	}
	for _, node := range o.Only {
		written.Only = append(written.Only, string(node))
	}
	if x.standing { // which nodes it concerns changes with the fleet
		written.Kind, written.Audience = order.Standing, audienceOf(prepared)
	}
	envelope, err := c.sign(written, prepared.GetVersion(), now)
	if err != nil {
		return nil, err
	}
	return &Signed{Envelope: envelope, Source: x.source}, nil
}

// audienceOf is that of an order which is not for certain racks: the whole fleet, or
// what the one who was asked speaks for.
func audienceOf(p *pb.PrepareReply) []string {
	if only := p.GetAudience(); len(only) > 0 {
		return only
	}
	return []string{order.Fleet}
}

// racksOf is the audience of what is done once.
func racksOf(p *pb.PrepareReply) []string {
	if n := len(p.GetRacks()); n == 0 || n > order.MostRacks {
		return audienceOf(p)
	}
	return list(p.GetRacks(), (*pb.SealKey).GetRack)
}

// maxAhead is how far the version of the last order may be ahead of our clock. A
// coordinator that says more would have us sign the last order that a rack ever
// takes for a name.
const maxAhead = 24 * time.Hour

func (c *Client) sign(o order.Order, last uint64, now time.Time) ([]byte, error) {
	if last > uint64(now.Add(maxAhead).UnixMilli()) {
		return nil, fault.New(fault.Untrusted, "sign "+o.Name, "the coordinator says that the last order for it is from the future").
			WithHint("is the clock of this machine right? date")
	}
	o.Version = order.Next(now, last)
	return c.author.Sign(o)
}

// end signs an order that comes without a script.
func (c *Client) end(ctx context.Context, op string, o order.Order) ([]byte, error) {
	if c.author == nil {
		return nil, c.noAuthor(op)
	}
	p, err := call(ctx, c, op, pbconnect.FleetClient.Prepare, &pb.PrepareRequest{Name: o.Name})
	if err != nil {
		return nil, err
	}
	o.Audience = audienceOf(p)
	return c.sign(o, p.GetVersion(), time.Now())
}

// Send applies a script that authors have signed.
func (c *Client) Send(ctx context.Context, file string, s Signed) (*Application, error) {
	a, err := call(ctx, c, "apply "+file, pbconnect.FleetClient.Apply, &pb.ApplyRequest{Source: s.Source, Envelope: s.Envelope})
	if err != nil {
		return nil, err
	}
	if a.GetDiagnostics().GetErrors() > 0 {
		return nil, scriptError(a.GetDiagnostics())
	}
	return &Application{
		Run: *toRun(a.GetRun()), Revision: a.GetRevision(), Warnings: a.GetWarnings(),
		CutOff: list(a.GetCutOff(), rackName),
	}, nil
}

// PutPolicy sets the policy of authors, as the roots have signed it.
func (c *Client) PutPolicy(ctx context.Context, envelope []byte) (version uint64, err error) {
	a, err := call(ctx, c, "set the policy of authors", pbconnect.FleetClient.PutPolicy, &pb.PutPolicyRequest{Envelope: envelope})
	return a.GetVersion(), err
}

// Policy is the signed policy of authors; empty if none is set.
func (c *Client) Policy(ctx context.Context) (envelope []byte, err error) {
	a, err := call(ctx, c, "get the policy of authors", pbconnect.FleetClient.GetPolicy, &pb.GetPolicyRequest{})
	return a.GetEnvelope(), err
}

// AuditLog is the audit log as a coordinator tells it: the records as JSON, and the
// checkpoint of a log of at least so many. Nothing of it is verified.
type AuditLog struct {
	Records    [][]byte
	Checkpoint []byte // signed; of the first answer
	Proof      []byte // whose signature it is
}

// Audit reads the audit log.
func (c *Client) Audit(ctx context.Context) (*AuditLog, error) {
	var log AuditLog
	for {
		a, err := call(ctx, c, "read the audit log", pbconnect.FleetClient.ReadAudit, &pb.ReadAuditRequest{From: int64(len(log.Records))})
		if err != nil {
			return nil, err
		}
		if len(log.Records) == 0 {
			log.Checkpoint, log.Proof = a.GetCheckpoint().GetNote(), a.GetCheckpoint().GetProof()
		}
		if len(a.GetRecords()) == 0 {
			return &log, nil
		}
		log.Records = append(log.Records, a.GetRecords()...)
	}
}

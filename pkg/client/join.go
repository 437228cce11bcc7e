package client

import (
	"context"
	"encoding/hex"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/pkg/wire/pb/pbconnect"
)

// JoinToken lets one machine become the agent of a rack. Its secret is with who has
// made it, and nowhere else.
type JoinToken struct {
	ID      string
	Key     []byte // ed25519, public
	Agent   fleet.AgentName
	Rack    fleet.RackName
	Replace bool // also if the rack has an agent
	By      string
	Created time.Time
	Until   time.Time
	Used    time.Time // zero: not yet
	UsedBy  string    // SHA-256 of the key that has used it, in hex
}

// PendingJoin is a machine that waits for a person to approve it.
type PendingJoin struct {
	Agent    fleet.AgentName
	Rack     fleet.RackName
	Key      string // short, as the machine shows it
	Remote   string // host:port
	Asked    time.Time
	Until    time.Time
	JudgedBy string // "": nobody yet
	Approved bool
}

// Door is where a machine joins.
type Door struct {
	Site string
	Mesh string // host:port; the host may be unspecified
}

// CreateJoinToken has the coordinators keep a token: ID, Key, Agent, Rack and Replace
// of t, for the time ttl.
func (c *Client) CreateJoinToken(ctx context.Context, t JoinToken, ttl time.Duration) (JoinToken, Door, error) {
	a, err := call(ctx, c, "create a join token for rack "+string(t.Rack), pbconnect.FleetClient.CreateToken, &pb.CreateTokenRequest{
		Token: &pb.JoinToken{Id: t.ID, Key: t.Key, Name: string(t.Agent), Rack: string(t.Rack), Replace: t.Replace},
		TtlMs: ttl.Milliseconds(),
	})
	return toToken(a.GetToken()), Door{Site: a.GetSite(), Mesh: a.GetMeshAddr()}, err
}

// JoinTokens are all join tokens, used and ended ones too.
func (c *Client) JoinTokens(ctx context.Context) ([]JoinToken, error) {
	a, err := call(ctx, c, "list the join tokens", pbconnect.FleetClient.ListTokens, &pb.ListTokensRequest{})
	return list(a.GetTokens(), toToken), err
}

// RevokeJoinToken makes a token good for nobody.
func (c *Client) RevokeJoinToken(ctx context.Context, id string) (JoinToken, error) {
	a, err := call(ctx, c, "revoke join token "+id, pbconnect.FleetClient.RevokeToken, &pb.RevokeTokenRequest{Id: id})
	return toToken(a.GetToken()), err
}

// PendingJoins are the machines that wait to be approved.
func (c *Client) PendingJoins(ctx context.Context) ([]PendingJoin, error) {
	a, err := call(ctx, c, "list who waits to join", pbconnect.FleetClient.ListPending, &pb.ListPendingRequest{})
	return list(a.GetPending(), toPending), err
}

// PendingWith is the machine that shows a code.
func (c *Client) PendingWith(ctx context.Context, code string) (PendingJoin, error) {
	a, err := call(ctx, c, "look for code "+code, pbconnect.FleetClient.JudgeJoin, &pb.JudgeJoinRequest{Code: code, Look: true})
	return toPending(a.GetPending()), err
}

// JudgeJoin approves or denies the machine that shows a code.
func (c *Client) JudgeJoin(ctx context.Context, code string, approve bool) (PendingJoin, error) {
	a, err := call(ctx, c, "judge code "+code, pbconnect.FleetClient.JudgeJoin, &pb.JudgeJoinRequest{Code: code, Approve: approve})
	return toPending(a.GetPending()), err
}

func toToken(m *pb.JoinToken) JoinToken {
	return JoinToken{
		ID: m.GetId(), Key: m.GetKey(), Agent: fleet.AgentName(m.GetName()), Rack: fleet.RackName(m.GetRack()), Replace: m.GetReplace(), By: m.GetBy(),
		Created: wire.FromTime(m.GetCreatedUnixMs()), Until: wire.FromTime(m.GetUntilUnixMs()),
		Used: wire.FromTime(m.GetUsedUnixMs()), UsedBy: hex.EncodeToString(m.GetUsedBy()),
	}
}

func toPending(m *pb.PendingJoin) PendingJoin {
	return PendingJoin{
		Agent: fleet.AgentName(m.GetName()), Rack: fleet.RackName(m.GetRack()), Key: fleet.ShortKey(m.GetSpki()), Remote: m.GetRemote(),
		Asked: wire.FromTime(m.GetAskedUnixMs()), Until: wire.FromTime(m.GetUntilUnixMs()), JudgedBy: m.GetJudgedBy(), Approved: m.GetApproved(),
	}
}

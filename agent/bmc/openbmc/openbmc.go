// Package openbmc does the steps of a take-over on a BMC with OpenBMC's web
// server. What is to be done next is decided in agent/takeover; here is how.
//
// The calls, their answers and their oddities are those of bmcweb at 7debb8928f,
// seen on the real server.
package openbmc

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"net/netip"
	"time"

	"github.com/chiba-mesh/chiba/agent/takeover"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// BMC is the way to a BMC; a bmc.Hand is one.
type BMC interface {
	redfish.Getter
	Root(ctx context.Context) (*redfish.Root, error)
	Patch(ctx context.Context, uri string, body any) error
	Post(ctx context.Context, uri string, body any) (*redfish.Reply, error)
	Delete(ctx context.Context, uri string) error
	Peer() redfish.Peer
	MustChange() (redfish.Link, bool)
	Credentials(ctx context.Context) (redfish.Credentials, error)
	LogIn(ctx context.Context, creds redfish.Credentials) error
	Try(ctx context.Context, creds redfish.Credentials) error
	TryCertificate(ctx context.Context, cert *tls.Certificate) (asked bool, err error)
	LogOut(ctx context.Context) error
	Reconnect()
}

// Issuer is the rack's certificate authority.
type Issuer interface {
	// Twin is the anchor for truststores, as PEM: self-signed, because OpenSSL
	// takes no intermediate for one.
	Twin() []byte
	// Next is the twin of the key that is to come, nil if none is.
	Next() []byte
	// BMCServer signs the certificate of a BMC's server for the key of a request
	// in PEM, and returns its chain in PEM, leaf first.
	BMCServer(csr []byte, node string, addresses ...netip.Addr) ([]byte, error)
	// BMCClient signs the certificate by which account logs in, likewise.
	BMCClient(account string, public crypto.PublicKey) ([]byte, error)
	// NodeURI is the one URI in the certificate of a node's BMC.
	NodeURI(node string) string
}

// Ledger is what is durable of a take-over.
type Ledger interface {
	Record() takeover.Record
	// Keep changes the record; it is durable, and in force for new connections,
	// when Keep returns.
	Keep(change func(takeover.Record) takeover.Record) error
	Seal(fleet.Secret) (string, error)
	Open(sealed string) (fleet.Secret, error)
	// Certificate is the client certificate for the account, under the twin.
	Certificate() (*tls.Certificate, error)
}

// Vault is what the lane logs in with.
type Vault interface {
	Propose(bmc string, next redfish.Credentials) error
	Prove(bmc string, proven redfish.Credentials) error
	// Store remembers that password was set, for scripts that compare with it.
	Store(bmc, user string, password fleet.Secret) error
}

// Driver takes over one BMC. It is for one goroutine at a time.
type Driver struct {
	Node      fleet.NodeName
	Addresses []netip.Addr // for its certificate
	BMC       BMC
	Issuer    Issuer
	Ledger    Ledger
	Vault     Vault
	Now       func() time.Time
	// Wait waits d; false if ctx ended before. It is between two looks at whether
	// a new certificate is served.
	Wait func(ctx context.Context, d time.Duration) bool
}

// impossible marks a failure that will not go away by itself.
type impossible struct{ error }

func (i impossible) Unwrap() error { return i.error }

// cannot is a failure of this kind.
func cannot(step takeover.Step, why string) error {
	return impossible{fault.New(fault.Unsupported, "take over: "+string(step), why)}
}

// Failure is what the record notes of a failed step.
func Failure(err error) takeover.Failure {
	var final impossible
	f := takeover.Failure{Reason: err.Error(), Final: errors.As(err, &final)}
	if answered, ok := errors.AsType[*redfish.StatusError](err); ok {
		f.Wait = answered.RetryAfter
	}
	return f
}

// Do does one step. What it has to remember it records before the BMC hears of
// it, so that it may die at any moment. A nil error means that the BMC said yes;
// what is so is for the next Look.
func (d *Driver) Do(ctx context.Context, step takeover.Step) error {
	do := map[takeover.Step]func(context.Context) error{
		takeover.Password: d.password, takeover.Clock: d.clock, takeover.Account: d.account,
		takeover.Anchor: d.anchor, takeover.Request: d.request, takeover.Install: d.install,
		takeover.Methods: d.methods, takeover.Mapping: d.mapping, takeover.Prove: d.prove, takeover.Pair: d.pair,
		takeover.Strict: d.strict, takeover.Logins: d.logins, takeover.Services: d.services,
		takeover.Root: d.closeRoot, takeover.Second: d.nextAnchor, takeover.Prune: d.prune,
		takeover.Open: d.open, takeover.Restore: d.restore, takeover.Return: d.giveBack,
		takeover.Uproot: d.uproot, takeover.Dismiss: d.dismiss,
	}[step]
	if do == nil {
		return fault.New(fault.Internal, "take over", "no such step: "+string(step))
	}
	return do(ctx)
}

// refusedAs reports whether err is the BMC's refusal with this message.
func refusedAs(err error, id string) bool {
	var answered *redfish.StatusError
	return errors.As(err, &answered) && answered.Says(id)
}

// orCannot is err, or final where the BMC says that it does not have this.
func orCannot(step takeover.Step, err error) error {
	if fault.Is(err, fault.Unsupported) || fault.Is(err, fault.NotFound) || refusedAs(err, "ActionNotSupported") {
		return cannot(step, err.Error())
	}
	return err
}

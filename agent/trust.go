package agent

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/agent/enroll"
	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
)

const (
	rackDir = "rack-ca" // the key of the rack's CA never leaves it
	denyDir = "deny"    // denials that a person has made here, one file each

	keyDenied      = "denied"       // the mesh's deny list
	keyDeniedLocal = "denied-local" // what was denied here and no coordinator knows yet

	// askEvery is the pause between two requests for what is due.
	askEvery = time.Minute
	// clockSkew is how far a coordinator's clock may be from ours unmentioned.
	clockSkew = 5 * time.Minute
)

// standingTrust is whom the agent is, and whom it believes: its credentials and
// their renewal, the rack's CA, the deny list and the clock. It is safe for
// concurrent use.
type standingTrust struct {
	cfg   Config
	log   *slog.Logger
	spool *spool.Spool

	clock    *trust.Clock
	endpoint *trust.Endpoint
	rack     *ca.Rack
	denials  trust.Denials // the union of the two lists

	mu    sync.Mutex
	mesh  []*pb.Denial // as the coordinators told
	local []*pb.Denial // made here
	asked time.Time
	join  enroll.State
}

// openTrust reads everything and checks that the certificate is for this agent.
func openTrust(cfg Config, disk *spool.Spool) (*standingTrust, error) {
	creds, err := cfg.credentials()
	if err != nil {
		return nil, err
	}
	id, err := cfg.identity(creds)
	if err != nil {
		return nil, err
	}
	t := &standingTrust{cfg: cfg, log: cfg.Log, spool: disk}
	if t.clock, err = trust.OpenClock(filepath.Join(cfg.State, trust.ClockFile), cfg.Now); err != nil {
		return nil, err
	}
	t.endpoint = trust.NewEndpoint(creds, trust.Options{Denied: &t.denials, Now: t.clock.Now})
	leaf := creds.Certificate.Leaf
	if err = t.clock.Saw(leaf.NotBefore, leaf.NotAfter); err != nil {
		return nil, err
	}
	if behind := t.clock.Behind(); behind > 0 {
		t.log.Warn("this machine's clock is behind what was signed already; certificates are judged by the later time", obs.Took, behind)
	}
	if t.join, err = enroll.ReadState(t.joinFile()); err != nil {
		return nil, err
	}
	if t.rack, err = ca.OpenRack(filepath.Join(cfg.State, rackDir), id.Domain, t.clock.Now); err != nil {
		return nil, err
	}
	return t, errors.Join(t.restore(), t.takeFiles())
}

// identity is that of the certificate, which must be this agent's.
func (c *Config) identity(creds trust.Credentials) (trust.Identity, error) {
	const op = "configure agent"
	id, err := creds.Identity()
	if err != nil {
		return id, err
	}
	for _, f := range []struct{ field, says, has string }{
		{"role", string(trust.Agent), string(id.Role)},
		{"name", string(c.Name), id.Name},
		{"rack", string(c.Rack), id.Rack},
		{"site", string(c.Site), id.Site},
	} {
		if f.says != f.has && f.says != "" {
			return id, fault.New(fault.BadInput, op, fmt.Sprintf("its %s is %q, the certificate has %q", f.field, f.says, f.has)).
				WithHint("give it a certificate for " + string(c.Name) + " in rack " + string(c.Rack))
		}
	}
	return id, nil
}

// client is the TLS configuration of the next dial: the files are read anew, so that
// what somebody else has renewed is used, too.
// A certificate that has ended is renewed at addr first: the key and the join state
// speak for it.
func (t *standingTrust) client(ctx context.Context, addr string) (*tls.Config, error) {
	creds, err := t.cfg.credentials()
	if err != nil {
		return nil, err
	}
	t.endpoint.Replace(creds)
	if t.clock.Now().After(creds.Certificate.Leaf.NotAfter) {
		if err := t.renewEnded(ctx, addr); err != nil {
			return nil, err
		}
	}
	return t.endpoint.Client(), t.takeFiles()
}

// Renewal is what to ask for now, nil if nothing is due.
func (t *standingTrust) Renewal() *pb.Renew {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock.Now()
	if now.Sub(t.asked) < askEvery {
		return nil
	}
	csr, _, err := t.rack.CSR()
	if err != nil {
		t.log.Error("no request for the rack's CA", obs.Err, err)
	}
	due := !now.Before(trust.HalfLife(t.endpoint.Credentials().Certificate.Leaf))
	if !due && len(csr) == 0 {
		return nil
	}
	t.asked = now
	q := &pb.Renew{RackCsr: csr}
	if due {
		if q.Join, err = t.join.Ask(t.joinFile()); err != nil {
			t.log.Error("our certificate can't be renewed", obs.Err, err)
		}
		q.Agent = err == nil
	}
	return q
}

// Renewed takes what has been renewed. What can't be taken is logged: the old
// certificates stay in use, and it is asked again.
func (t *standingTrust) Renewed(m *pb.Renewed) {
	if r := m.GetRefusal(); r != nil {
		err := wire.FromFault(r.GetKind(), r.GetError(), r.GetHint())
		t.log.Warn("certificates were not renewed", obs.Err, err, obs.Kind, fault.KindOf(err))
	}
	if err := t.take(m); err != nil {
		t.log.Error("renewed certificates are not taken", obs.Err, err, obs.Kind, fault.KindOf(err))
	}
}

func (t *standingTrust) take(m *pb.Renewed) error {
	if chain, err := parse(m.GetAgent()); err != nil {
		return err
	} else if len(chain) > 0 {
		bundle, err := parse(m.GetBundle())
		if err != nil {
			return err
		}
		if err := t.renew(chain, bundle, m.GetJoinCounter()); err != nil {
			return err
		}
	}
	chain, err := parse(m.GetRack())
	if err != nil || len(chain) == 0 {
		return err
	}
	if err := t.rack.Install(chain, t.endpoint.Credentials().Anchors); err != nil {
		return err
	}
	t.log.Info("the rack's CA is signed", "until", chain[0].NotAfter)
	return nil
}

// renew puts the join state that came with it and our own renewed certificate on disk,
// then in use.
func (t *standingTrust) renew(chain, bundle []*x509.Certificate, counter uint64) error {
	renewed, err := t.endpoint.Credentials().Renewed(chain, bundle)
	if err != nil {
		return err
	}
	if err := t.answered(counter); err != nil {
		return err
	}
	if err := trust.SaveRenewedFiles(t.cfg.certFile(), t.cfg.rootsFile(), chain, renewed.Anchors); err != nil {
		return fault.Wrap(fault.Unavailable, "keep our renewed certificate", err)
	}
	t.endpoint.Replace(renewed)
	t.log.Info("our certificate is renewed", "until", chain[0].NotAfter)
	return t.clock.Saw(chain[0].NotBefore, chain[0].NotAfter)
}

func parse(der [][]byte) ([]*x509.Certificate, error) {
	chain := make([]*x509.Certificate, len(der))
	for i, raw := range der {
		var err error
		if chain[i], err = x509.ParseCertificate(raw); err != nil {
			return nil, fault.Wrap(fault.Garbage, "read a renewed certificate", err)
		}
	}
	return chain, nil
}

// Time takes the time that a coordinator has told.
func (t *standingTrust) Time(told time.Time) {
	if skew := time.Since(told); skew.Abs() > clockSkew {
		t.log.Warn("this machine's clock is not the coordinator's", obs.Took, skew)
	}
	if err := t.clock.Saw(told, t.endpoint.Credentials().Certificate.Leaf.NotAfter); err != nil {
		t.log.Warn("the coordinator's time is not taken", obs.Err, err)
	}
}

// Still is an error if the coordinator with that chain is believed no longer.
func (t *standingTrust) Still(chain []*x509.Certificate) error {
	if err := t.takeFiles(); err != nil {
		t.log.Error("denials of this machine are not taken", obs.Err, err)
	}
	_, err := t.endpoint.Verify(chain, x509.ExtKeyUsageServerAuth, trust.Coordinator)
	return err
}

// Denied is what was denied here, for the coordinators.
func (t *standingTrust) Denied() []*pb.Denial {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.local
}

// heard takes the mesh's deny list in place of the one before. What was denied here
// stays until the coordinators have decided on it: then their list has it, or
// somebody has allowed it since.
func (t *standingTrust) heard(d *pb.Desired) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	local := slices.DeleteFunc(slices.Clone(t.local), func(l *pb.Denial) bool { return slices.Contains(d.GetSettled(), l.GetSubject()) })
	if len(local) == len(t.local) && sameDenials(d.GetDenied(), t.mesh) {
		return nil
	}
	return t.keep(d.GetDenied(), local)
}

func sameDenials(a, b []*pb.Denial) bool {
	return proto.Equal(&pb.Desired{Denied: a}, &pb.Desired{Denied: b})
}

// keep puts the two lists on disk, then into force.
func (t *standingTrust) keep(mesh, local []*pb.Denial) error {
	err := t.spool.Update(func(tx *spool.Tx) error {
		tx.PutMessage(spool.Notes, keyDenied, &pb.Desired{Denied: mesh})
		tx.PutMessage(spool.Notes, keyDeniedLocal, &pb.Desired{Denied: local})
		return nil
	})
	if err != nil {
		return err
	}
	t.mesh, t.local = mesh, local
	t.denials.Set(trust.MergeDenials(wire.FromDenials(mesh), wire.FromDenials(local)))
	return nil
}

func (t *standingTrust) restore() error {
	lists := map[string]*pb.Desired{keyDenied: {}, keyDeniedLocal: {}}
	err := t.spool.View(func(tx *spool.Tx) error {
		for key, list := range lists {
			if err := proto.Unmarshal(tx.Get(spool.Notes, key), list); err != nil {
				return fault.Wrap(fault.Garbage, "read the deny list", err)
			}
		}
		return nil
	})
	t.mesh, t.local = lists[keyDenied].GetDenied(), lists[keyDeniedLocal].GetDenied()
	t.denials.Set(trust.MergeDenials(wire.FromDenials(t.mesh), wire.FromDenials(t.local)))
	return err
}

// takeFiles takes in what `chiba agent deny` has put down.
func (t *standingTrust) takeFiles() error {
	const op = "take denials of this machine"
	dir := filepath.Join(t.cfg.State, denyDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fault.Wrap(fault.Unavailable, op, err)
	}
	var fresh []fleet.Denial
	var paths []string
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		text, err := os.ReadFile(path)
		if err != nil {
			return fault.Wrap(fault.Unavailable, op, err)
		}
		var d fleet.Denial
		if err := json.Unmarshal(text, &d); err != nil {
			return fault.Wrap(fault.BadInput, op+": "+path, err)
		}
		fresh, paths = append(fresh, d), append(paths, path)
	}
	if len(paths) == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.keep(t.mesh, append(slices.Clip(t.local), wire.ToDenials(fresh)...)); err != nil {
		return err
	}
	var errs []error
	for _, path := range paths {
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(errs...)
}

// denyHere puts down a denial for the agent whose state is in dir, which takes it
// within a heartbeat, or when it starts.
func denyHere(dir, subject, reason string) (fleet.Denial, error) {
	const op = "deny"
	subject, err := trust.ParseSubject(subject)
	if err != nil {
		return fleet.Denial{}, err
	}
	if _, err = os.Stat(filepath.Join(dir, ConfigFile)); err != nil {
		return fleet.Denial{}, fault.New(fault.BadInput, op, "there is no "+ConfigFile+" in "+dir).
			WithHint("name the agent's state directory with --state DIR")
	}
	d := fleet.Denial{Subject: subject, Reason: reason, By: "at the agent", At: time.Now().UTC().Truncate(time.Millisecond)}
	text, err := json.Marshal(d)
	if err != nil {
		return d, fault.Wrap(fault.Internal, op, err)
	}
	if err := os.MkdirAll(filepath.Join(dir, denyDir), 0o700); err != nil {
		return d, fault.Wrap(fault.Unavailable, op, err)
	}
	var name [8]byte
	_, _ = rand.Read(name[:]) // never fails, see its documentation
	path := filepath.Join(dir, denyDir, hex.EncodeToString(name[:])+".json")
	return d, fault.Wrap(fault.Unavailable, op, trust.WriteFile(path, 0o600, text))
}

package peers

import (
	"context"

	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/trust"
)

// Cut ends the sessions of coordinators that are denied now; new ones of theirs
// end in the handshake. It never waits.
func (p *Peers) Cut() {
	select {
	case p.cuts <- struct{}{}:
	default: // one is asked for that has not begun
	}
}

// cutter does what Cut asks for, until ctx ends.
func (p *Peers) cutter(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.cuts:
			for _, s := range p.sessions() {
				p.cut(s)
			}
		}
	}
}

func (p *Peers) cut(s mesh.Session) {
	id, err := trust.IdentityOf(s.Peer())
	if err == nil {
		err = p.conf.Denied.Check(s.Chain(), id)
	}
	if err != nil {
		p.conf.Log.Warn("the session of a coordinator ends", obs.Peer, id.Name, obs.Err, err)
		s.Close("denied")
	}
}

// sessions are all that live, whoever opened them.
func (p *Peers) sessions() []mesh.Session {
	p.mu.Lock()
	var all []mesh.Session
	for s := range p.served {
		all = append(all, s)
	}
	dialed := make([]*peer, 0, len(p.byAt))
	for _, one := range p.byAt {
		dialed = append(dialed, one)
	}
	p.mu.Unlock()
	for _, one := range dialed {
		one.mu.Lock() // a dial under way ends with its time
		if one.session != nil {
			all = append(all, one.session)
		}
		one.mu.Unlock()
	}
	return all
}

// serving notes that s is served, until the returned function is called.
func (p *Peers) serving(s mesh.Session) (over func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.served[s] = true
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.served, s)
	}
}

package coordinator

import (
	"github.com/chiba-mesh/chiba/coordinator/enroll"
	"github.com/chiba-mesh/chiba/coordinator/hub"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/trust"
	trustenroll "github.com/chiba-mesh/chiba/trust/enroll"
)

// newcomers serves machines that want to become agents, as far as this coordinator
// can certify them: it needs the CA of the site. The interface is nil if it can't.
func (c *Coordinator) newcomers() (hub.Newcomers, error) {
	by := c.conf.Authority
	if by == nil {
		return nil, nil //nolint:nilnil // none is no error
	}
	key, err := by.Secret(trustenroll.TicketLabel)
	if err != nil {
		return nil, err
	}
	return enroll.New(enroll.Config{
		Name: c.conf.Name, Site: by.Domain(), Machine: c.mach, Denied: &c.deny, TicketKey: key, Log: c.conf.Log,
		Issuer: enroll.Issuer{Log: commands{c}, Authority: by},
	})
}

// listen opens the port of the agents, with the door for newcomers if they are served.
func (c *Coordinator) listen(resetKey *[32]byte) (*mesh.Listener, error) {
	agents := c.trust.Server(trust.Agent)
	if c.conf.Authority == nil {
		return mesh.Listen(c.conf.MeshAddr, agents, resetKey)
	}
	return mesh.ListenWithEnrolment(c.conf.MeshAddr, agents, c.trust.Newcomers(), resetKey)
}

// site is the one that agents can be enrolled in here, "" if they can't.
func (c *Coordinator) site() string {
	if c.conf.Authority == nil {
		return ""
	}
	return c.conf.Authority.Domain().Site
}

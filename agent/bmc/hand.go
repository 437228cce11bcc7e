package bmc

import (
	"context"
	"crypto/tls"

	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// Hand is a lane for whoever asks for resources by himself. Its calls wait for
// their turn as all others do. It is safe for concurrent use.
type Hand struct {
	lane *Lane
	prio Priority
}

// Hand is a way to the BMC at a priority.
func (l *Lane) Hand(prio Priority) Hand { return Hand{l, prio} }

// Fetch reads a resource.
func (h Hand) Fetch(ctx context.Context, uri string) ([]byte, error) {
	return h.lane.fetch(ctx, h.prio, uri)
}

// Root reads the service root, which needs no login, once.
func (h Hand) Root(ctx context.Context) (root *redfish.Root, err error) {
	err = h.lane.paced(ctx, h.prio, h.lane.reads, func() error {
		root, err = h.lane.client.Root(ctx)
		return err
	})
	return root, err
}

// Patch changes a resource.
func (h Hand) Patch(ctx context.Context, uri string, body any) error {
	return h.write(ctx, func() error {
		_, err := h.lane.client.Patch(ctx, uri, body)
		return err
	})
}

// Post creates a member of a collection or calls an action.
func (h Hand) Post(ctx context.Context, uri string, body any) (reply *redfish.Reply, err error) {
	err = h.write(ctx, func() error {
		reply, err = h.lane.client.Post(ctx, uri, body)
		return err
	})
	return reply, err
}

// Delete removes a resource.
func (h Hand) Delete(ctx context.Context, uri string) error {
	return h.write(ctx, func() error {
		_, err := h.lane.client.Delete(ctx, uri)
		return err
	})
}

func (h Hand) write(ctx context.Context, do func() error) error {
	return h.lane.write(ctx, h.prio, do)
}

// Profile is how the BMC's make is treated, as far as it is known.
func (h Hand) Profile() redfish.Profile { return h.lane.client.Profile() }

// Peer is what the BMC showed in its last handshake.
func (h Hand) Peer() redfish.Peer { return h.lane.client.Peer() }

// MustChange reports whether the BMC wants a new password of an account first.
func (h Hand) MustChange() (redfish.Link, bool) { return h.lane.client.MustChange() }

// Credentials are what the BMC accepts from us. Without a password in them it is
// our certificate.
func (h Hand) Credentials(ctx context.Context) (redfish.Credentials, error) {
	return h.lane.view(h.prio).loggedIn(ctx)
}

// LogIn opens the session anew with creds.
func (h Hand) LogIn(ctx context.Context, creds redfish.Credentials) error {
	return h.write(ctx, func() error { return h.lane.client.LogIn(ctx, creds) })
}

// Try proves creds by a session that is deleted at once.
func (h Hand) Try(ctx context.Context, creds redfish.Credentials) error {
	return h.write(ctx, func() error { return h.lane.client.Try(ctx, creds) })
}

// TryCertificate proves on a new connection that cert is a login, and reports
// whether the BMC asked for one at all.
func (h Hand) TryCertificate(ctx context.Context, cert *tls.Certificate) (asked bool, err error) {
	err = h.lane.paced(ctx, h.prio, h.lane.reads, func() error {
		asked, err = h.lane.client.TryCertificate(ctx, cert)
		return err
	})
	return asked, err
}

// LogOut deletes our session, if there is one.
func (h Hand) LogOut(ctx context.Context) error {
	return h.write(ctx, func() error { return h.lane.client.LogOut(ctx) })
}

// Reconnect makes the next request shake hands anew.
func (h Hand) Reconnect() { h.lane.client.Reconnect() }

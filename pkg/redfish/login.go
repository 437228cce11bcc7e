package redfish

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// openSession makes a session, and room for it if that is what lacks: sessions
// of our earlier lives may be what fills the BMC's table.
func (c *Client) openSession(ctx context.Context, creds Credentials) (*session, error) {
	s, err := c.postSession(ctx, creds)
	if err == nil || !tableFull(err) {
		return s, err
	}
	if c.reapOrphans(ctx, &session{creds: creds}) > 0 {
		s, err = c.postSession(ctx, creds)
	}
	if tableFull(err) {
		room := "the BMC has no room for one more session"
		if n := c.Profile().MaxSessions; n > 0 {
			room += fmt.Sprintf(" (a BMC of this make holds %d)", n)
		}
		return nil, &fault.Error{Kind: fault.Unavailable, Op: "log in", Err: err, Hint: room + ": end those that nobody uses, on its own page, or restart it"}
	}
	return s, err
}

// tableFull reports whether a login was refused only because too many are
// logged in. The ids are those of the Base registry (DSP8011), of iDRACs, and
// in words what older services write.
func tableFull(err error) bool {
	var status *StatusError
	if !errors.As(err, &status) {
		return false
	}
	for _, m := range status.Messages {
		switch m.ID {
		case "SessionLimitExceeded", "CreateLimitReachedForResource", "RAC0218":
			return true
		}
		if text := strings.ToLower(m.Text); strings.Contains(text, "session") && (strings.Contains(text, "maximum") || strings.Contains(text, "limit")) {
			return true
		}
	}
	return false
}

// postSession is the POST that makes a session (DSP0266, session login). A BMC
// that does not know the Context property is asked again without it.
func (c *Client) postSession(ctx context.Context, creds Credentials) (*session, error) {
	root, err := c.Root(ctx)
	if err != nil {
		return nil, err
	}
	req := request{method: http.MethodPost, uri: string(root.SessionsURI()), secrets: []fleet.Secret{creds.Password}}
	body := map[string]string{"UserName": creds.User, "Password": creds.Password.Reveal()}
	if c.cfg.Context != "" && !c.noContext {
		body["Context"] = c.cfg.Context
	}
	for {
		if req.body, err = encode(body); err != nil {
			return nil, fmt.Errorf("encode the login: %w", err)
		}
		reply, err := c.exchange(ctx, req)
		reply, err = c.judge(req, reply, err)
		if err == nil {
			return newSession(reply, string(root.SessionsURI()), creds)
		}
		var status *StatusError
		_, withContext := body["Context"]
		if !errors.As(err, &status) || status.Status != http.StatusBadRequest || !withContext || tableFull(err) {
			return nil, err
		}
		delete(body, "Context")
		c.noContext = true
	}
}

func newSession(reply *Reply, collection string, creds Credentials) (*session, error) {
	s := &session{token: reply.Header.Get("X-Auth-Token"), creds: creds}
	s.account, s.limited = changeRequired(reply.Body)
	if s.token == "" {
		return nil, fault.New(fault.Garbage, "log in", "the BMC accepted the login and sent no token")
	}
	var doc struct {
		ID Text `json:"@odata.id"`
	}
	_ = Decode(reply.Body, &doc) // the header names it too
	for _, uri := range []string{reply.Location(), pathOf(string(doc.ID))} {
		// Anything else than a member of the sessions is nothing of ours to delete.
		if strings.HasPrefix(uri, strings.TrimSuffix(collection, "/")+"/") {
			s.uri = uri
			break
		}
	}
	return s, nil
}

func (c *Client) endSession(ctx context.Context, s *session) error {
	if s.uri == "" {
		return nil // it ends by the BMC's timeout
	}
	req := s.request(http.MethodDelete, s.uri)
	reply, err := c.exchange(ctx, req)
	if err == nil && (reply.Status == http.StatusNotFound || reply.Status == http.StatusUnauthorized) {
		return nil // it is gone already
	}
	_, err = c.judge(req, reply, err)
	return err
}

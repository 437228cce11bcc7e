package redfish

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// Message is one entry of a Redfish error body (DSP0266, error responses).
type Message struct {
	ID   string // without registry and version: "PropertyValueFormatError"
	Text string
}

// StatusError is a refusal: the BMC was reached and answered with a status
// that is no success. It is wrapped in the fault.Error that names its kind.
type StatusError struct {
	Status     int
	Messages   []Message
	RetryAfter time.Duration // of 429 and 503, bounded
}

// Error is the BMC's own words, shortened.
func (e *StatusError) Error() string {
	var texts []string
	for _, m := range e.Messages {
		if text := m.Text; text != "" {
			texts = append(texts, strings.TrimSuffix(text, "."))
		} else if m.ID != "" {
			texts = append(texts, m.ID)
		}
	}
	status := fmt.Sprintf("the BMC answered %d %s", e.Status, http.StatusText(e.Status))
	if len(texts) == 0 {
		return strings.TrimSpace(status)
	}
	return strings.TrimSpace(status) + ": " + strings.Join(texts, "; ")
}

// Says reports whether one of the messages has this id, for example
// "PropertyValueFormatError".
func (e *StatusError) Says(id string) bool {
	for _, m := range e.Messages {
		if m.ID == id {
			return true
		}
	}
	return false
}

// statusError turns a refusal into a fault of its kind.
func statusError(req request, reply *Reply, hide func(string) string, now time.Time) error {
	e := &StatusError{Status: reply.Status, Messages: messages(reply.Body)}
	for i := range e.Messages {
		e.Messages[i].ID, e.Messages[i].Text = hide(e.Messages[i].ID), hide(e.Messages[i].Text)
	}
	f := &fault.Error{Kind: kindOf(e), Op: req.op(), Err: e}
	switch reply.Status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		e.RetryAfter = retryAfter(reply.Header, now)
		f.Hint = fmt.Sprintf("the BMC is busy; try again in %s", e.RetryAfter)
	case http.StatusForbidden:
		f.Hint = "the BMC's account that the agent uses lacks the privilege"
		if e.Says(mustChange) {
			f.Hint = "the BMC wants a new password before anything else: (bmc (user NAME (password …)))"
		}
	}
	return f
}

// hide is the filter for texts that come back from the BMC: what it repeats of
// the token, the password we log in with or a secret of the request is gone.
func (c *Client) hide(req request) func(string) string {
	secrets := append([]fleet.Secret{fleet.NewSecret(req.token)}, req.secrets...)
	if s := c.current(); s != nil {
		secrets = append(secrets, s.creds.Password)
	}
	return Hider(secrets...)
}

// Hider returns a filter that replaces every one of the secrets in a text.
func Hider(secrets ...fleet.Secret) func(string) string {
	var pairs []string
	for _, s := range secrets {
		if !s.Empty() {
			pairs = append(pairs, s.Reveal(), fleet.Redacted)
		}
	}
	return strings.NewReplacer(pairs...).Replace
}

// kindOf classes a refusal: by what its messages say where they are exact,
// else by the status.
func kindOf(e *StatusError) fault.Kind {
	for _, m := range e.Messages {
		switch m.ID {
		case "ResourceMissingAtURI", "ResourceNotFound":
			return fault.NotFound
		case "PropertyUnknown", "PropertyNotWritable", "ActionNotSupported":
			return fault.Unsupported
		case "InsufficientPrivilege":
			return fault.Denied
		}
	}
	switch e.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fault.Denied
	case http.StatusNotFound, http.StatusGone:
		return fault.NotFound
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return fault.Unsupported
	case http.StatusConflict, http.StatusPreconditionFailed:
		return fault.Conflict
	case http.StatusRequestEntityTooLarge:
		return fault.TooLarge
	}
	switch {
	case e.Status >= 500 || e.Status == http.StatusTooManyRequests:
		return fault.Unavailable
	case e.Status >= 400:
		return fault.BadInput
	default:
		return fault.Garbage // a redirect elsewhere, or no status of HTTP
	}
}

// messages reads the messages of an error body, at most four; none if it is
// not one.
func messages(body []byte) []Message {
	type info struct {
		ID   Text `json:"MessageId"`
		Text Text `json:"Message"`
	}
	var doc struct {
		Error struct {
			Code    Text   `json:"code"`
			Message Text   `json:"message"`
			Info    []info `json:"@Message.ExtendedInfo"`
		} `json:"error"`
	}
	if checkJSON(body, 16) != nil || Decode(body, &doc) != nil {
		return nil
	}
	var found []Message
	for _, m := range doc.Error.Info {
		if len(found) < 4 {
			found = append(found, Message{ID: lastPart(string(m.ID)), Text: short(string(m.Text))})
		}
	}
	if len(found) == 0 && doc.Error.Message+doc.Error.Code != "" {
		found = []Message{{ID: lastPart(string(doc.Error.Code)), Text: short(string(doc.Error.Message))}}
	}
	return found
}

// mustChange is the message of a BMC that lets an account do nothing but change
// its own password: the state of a fresh OpenBMC image (openbmc/bmcweb#103).
const mustChange = "PasswordChangeRequired"

// ChangeRequired reports whether err is the BMC's demand for a new password.
func ChangeRequired(err error) bool {
	var status *StatusError
	return errors.As(err, &status) && status.Says(mustChange)
}

// changeRequired looks for that message in the body of a login or of a refusal,
// and for the account that it names.
func changeRequired(body []byte) (account Link, must bool) {
	type info struct {
		ID   Text   `json:"MessageId"`
		Args []Text `json:"MessageArgs"`
	}
	var doc struct {
		Info  []info `json:"@Message.ExtendedInfo"`
		Error struct {
			Info []info `json:"@Message.ExtendedInfo"`
		} `json:"error"`
	}
	if checkJSON(body, 16) != nil || Decode(body, &doc) != nil {
		return "", false
	}
	for _, m := range append(doc.Info, doc.Error.Info...) {
		if lastPart(string(m.ID)) != mustChange {
			continue
		}
		if len(m.Args) > 0 {
			account = Link(pathOf(string(m.Args[0])))
		}
		return account, true
	}
	return "", false
}

// lastPart is the key of a MessageId: "Base.1.19.NoOperation" -> "NoOperation".
func lastPart(id string) string { return short(id[strings.LastIndexByte(id, '.')+1:]) }

// short makes a BMC's text fit for one line: printable, at most 300 bytes.
func short(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}

// pathOf is the path and query of a URI reference, "" if it is none.
func pathOf(ref string) string {
	u, err := url.Parse(ref)
	if err != nil || !strings.HasPrefix(u.Path, "/") {
		return ""
	}
	return u.RequestURI()
}

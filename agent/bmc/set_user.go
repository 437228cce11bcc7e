package bmc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// userSetting is (bmc (user NAME (password …) (role …))).
type userSetting struct{}

func (userSetting) settles(l *Lane) time.Duration { return 3 * l.cfg.Poll }

// account is what is read of a ManagerAccount.
type account struct {
	uri      redfish.Link
	UserName redfish.Text
	RoleID   redfish.Text `json:"RoleId"`
	Enabled  redfish.Flag
}

// off reports whether the BMC says that nobody can log in with the account.
func (a *account) off() bool { return a != nil && a.Enabled.Set && !a.Enabled.Value }

// accountService is what is read of the AccountService.
type accountService struct {
	Accounts redfish.Link
	Min      redfish.Number `json:"MinPasswordLength"`
	Max      redfish.Number `json:"MaxPasswordLength"`
}

func (v *view) accountService(ctx context.Context) (*accountService, error) {
	p, err := v.places(ctx)
	if err != nil {
		return nil, err
	}
	if p.root.AccountService == "" {
		return nil, fault.New(fault.Unsupported, "", "this BMC shows no accounts")
	}
	s := &accountService{}
	if err := redfish.Get(ctx, v, p.root.AccountService, s); err != nil {
		return nil, err
	}
	return s, nil
}

// account finds the user's account, nil if there is none. The member whose URI
// ends in the name is looked at first: on OpenBMC that is the one; other BMCs
// number them.
func (v *view) account(ctx context.Context, user string) (*account, error) {
	s, err := v.accountService(ctx)
	if err != nil {
		return nil, err
	}
	members, err := redfish.Members(ctx, v, s.Accounts, maxParts)
	if err != nil {
		return nil, err
	}
	read := func(uri redfish.Link) (*account, error) {
		a := &account{uri: uri}
		return a, redfish.Get(ctx, v, uri, a)
	}
	for _, m := range members {
		if lastSegment(m) == user {
			if a, err := read(m); err == nil && string(a.UserName) == user {
				return a, nil
			}
		}
	}
	for _, m := range members {
		a, err := read(m)
		if err != nil {
			return nil, err
		}
		if string(a.UserName) == user {
			return a, nil
		}
	}
	return nil, nil
}

func (userSetting) compare(ctx context.Context, v *view, settings []scl.Setting) []fleet.Change {
	out := make([]fleet.Change, len(settings))
	var found *account
	var err error
	looked := false
	for i, s := range settings {
		if s.Field == "password" {
			if c, known := v.comparePassword(ctx, s); known {
				out[i] = c
				continue
			}
		}
		if !looked {
			found, err = v.account(ctx, s.Name)
			looked = true
		}
		switch {
		case err != nil:
			out[i] = unread(settings[i:i+1], err)[0]
		case found == nil:
			out[i] = fleet.Change{Before: "absent", Verdict: fleet.Differs, Note: "this BMC has no such user; it will be made"}
		case s.Field == "role":
			out[i] = compared(string(found.RoleID), same(string(found.RoleID), roleID(s.Value.String())))
		case s.Field == "password":
			out[i] = fleet.Change{Verdict: fleet.Unreadable, Note: "a password can't be read back and was not set from here before: it will be set"}
		default:
			out[i] = unsupported("the agent can't configure " + s.Path())
		}
	}
	return out
}

// comparePassword compares without asking the BMC, where that can be: with the
// password that the lane is logged in with, else with the digest of what was
// last set.
func (v *view) comparePassword(ctx context.Context, s scl.Setting) (fleet.Change, bool) {
	if s.Secret.Literal.Empty() {
		return fleet.Change{Verdict: fleet.Unreadable, Note: "the secret was not opened for this agent"}, true
	}
	creds, err := v.loggedIn(ctx)
	if err != nil {
		return unread([]scl.Setting{s}, err)[0], true
	}
	if creds.User == s.Name {
		c := compared("", creds.Password == s.Secret.Literal)
		if _, must := v.lane.client.MustChange(); must && c.Verdict == fleet.Same {
			c.Verdict, c.Note = fleet.Differs, "this is the password that the BMC demands to be changed: choose another"
		}
		return c, true
	}
	if v.lane.cfg.Digests == nil {
		return fleet.Change{}, false
	}
	same, known, err := v.lane.cfg.Digests.Matches(v.lane.cfg.BMC.BMC, s.Name, s.Secret.Literal)
	if err != nil {
		return fleet.Change{Verdict: fleet.Unreadable, Note: err.Error()}, true
	}
	return compared("", same), known
}

// loggedIn is what the BMC accepts from the lane; it costs a request only where
// no session is open.
func (v *view) loggedIn(ctx context.Context) (creds redfish.Credentials, err error) {
	creds, in := v.lane.client.LoggedIn()
	if in {
		return creds, nil
	}
	err = v.lane.paced(ctx, v.prio, v.lane.reads, func() error {
		creds, err = v.lane.client.Credentials(ctx)
		return err
	})
	return creds, err
}

// roleID is a role as Redfish names it (DSP0266, roles).
func roleID(word string) string {
	switch plain(word) {
	case "admin", "administrator":
		return "Administrator"
	case "operator":
		return "Operator"
	case "readonly", "user":
		return "ReadOnly"
	default:
		return word
	}
}

// write changes the account or makes it, and proves a password by a login.
func (userSetting) write(ctx context.Context, v *view, settings []scl.Setting) error {
	user := settings[0].Name
	var password fleet.Secret
	body := map[string]any{}
	for _, s := range settings {
		switch s.Field {
		case "password":
			if password = s.Secret.Literal; password.Empty() {
				return fault.New(fault.BadInput, "set the password", "the secret was not opened for this agent")
			}
			body["Password"] = password.Reveal()
		case "role":
			body["RoleId"] = roleID(s.Value.String())
		}
	}
	creds, err := v.loggedIn(ctx)
	if err != nil {
		return err
	}
	if creds.User == user && creds.Password.Empty() {
		return fault.New(fault.Conflict, "set the user", "this is the account that the agent logs in with, by certificate; it is the agent's alone")
	}
	a, err := v.accountToWrite(ctx, user, creds)
	if err != nil {
		return err
	}
	next := redfish.Credentials{User: user, Password: password}
	switch {
	case password.Empty() && a == nil:
		return fault.New(fault.BadInput, "make the user", "this BMC has no user "+user+", and the script gives it no password").
			WithHint("write its (password …) too")
	case password.Empty():
		return v.lane.patch(ctx, v.prio, a.uri, body)
	case creds.User == user:
		return v.changeOwn(ctx, a, body, creds, next)
	default:
		return v.changeOther(ctx, a, body, next)
	}
}

// accountToWrite is the user's account. Where the BMC demands a new password
// first, it refuses to show any: then our own is the one that it named.
func (v *view) accountToWrite(ctx context.Context, user string, creds redfish.Credentials) (*account, error) {
	if uri, must := v.lane.client.MustChange(); must && creds.User == user {
		return &account{uri: uri, UserName: redfish.Text(user)}, nil
	}
	return v.account(ctx, user)
}

// changeOwn changes the password that the lane itself logs in with. The new one
// is durable beside the old before the BMC hears of it, so that no crash can
// lock us out; a login with it ends the doubt.
func (v *view) changeOwn(ctx context.Context, a *account, body map[string]any, old, next redfish.Credentials) error {
	l := v.lane
	if a == nil {
		return fault.New(fault.NotFound, "set the password", "this BMC does not show the account that we are logged in with")
	}
	if err := l.cfg.Vault.Propose(l.cfg.BMC.BMC, next); err != nil {
		return fmt.Errorf("keep the new password before it is set: %w", err)
	}
	err := v.writeAccount(ctx, a, body, next)
	if err != nil && !redfish.Uncertain(err) { // refused: the old one stays
		return errors.Join(err, l.cfg.Vault.Prove(l.cfg.BMC.BMC, old))
	}
	loginErr := l.write(ctx, v.prio, func() error { return l.client.LogIn(ctx, next) })
	if loginErr != nil {
		return unproven{errors.Join(err, fmt.Errorf("prove the new password: %w", loginErr))}
	}
	if err := l.cfg.Vault.Prove(l.cfg.BMC.BMC, next); err != nil {
		return fmt.Errorf("keep the new password: %w", err)
	}
	if err := v.rememberPassword(next); err != nil {
		return err
	}
	return proven{}
}

// unproven marks a password change of which nobody can tell how it ended.
type unproven struct{ error }

func (u unproven) Unwrap() error { return u.error }

// changeOther sets another user's password and proves it by a session of that
// user, deleted at once. A user that may not log in leaves it unproven.
func (v *view) changeOther(ctx context.Context, a *account, body map[string]any, next redfish.Credentials) error {
	l := v.lane
	if err := v.writeAccount(ctx, a, body, next); err != nil {
		return err
	}
	var err error
	if !a.off() { // a login that must fail would count towards a lockout
		err = l.write(ctx, v.prio, func() error { return l.client.Try(ctx, next) })
	}
	if storeErr := v.rememberPassword(next); storeErr != nil {
		return storeErr
	}
	if a.off() {
		return attempted{"the BMC accepted the password; the account is switched off there, so no login can prove it"}
	}
	if err != nil {
		return attempted{"the BMC accepted the password; a login to prove it was not possible: " + err.Error()}
	}
	return proven{}
}

func (v *view) rememberPassword(c redfish.Credentials) error {
	if v.lane.cfg.Digests == nil {
		return nil
	}
	if err := v.lane.cfg.Digests.Store(v.lane.cfg.BMC.BMC, c.User, c.Password); err != nil {
		return fmt.Errorf("remember that the password was set: %w", err)
	}
	return nil
}

// writeAccount changes the account, or makes it if a is nil. A refusal of the
// password tells the BMC's own rule.
func (v *view) writeAccount(ctx context.Context, a *account, body map[string]any, creds redfish.Credentials) error {
	conf := redfish.Confidential{Body: body, Secrets: []fleet.Secret{creds.Password}}
	var err error
	if a != nil {
		err = v.lane.patch(ctx, v.prio, a.uri, conf)
	} else {
		err = v.makeAccount(ctx, body, conf, creds.User)
	}
	var answered *redfish.StatusError
	if errors.As(err, &answered) && strings.Contains(answered.Error(), "Password") && fault.Is(err, fault.BadInput) {
		rule := "it does not tell the rule"
		if s, e := v.accountService(ctx); e == nil {
			rule = s.rule()
		}
		return fault.Wrap(fault.BadInput, "set the password", fmt.Errorf("%w (%s)", err, rule))
	}
	return err
}

func (v *view) makeAccount(ctx context.Context, body map[string]any, conf redfish.Confidential, user string) error {
	s, err := v.accountService(ctx)
	if err != nil {
		return err
	}
	if body["RoleId"] == nil {
		return fault.New(fault.BadInput, "make the user", "the script gives the new user "+user+" no role").
			WithHint("write its (role …) too: administrator, operator or readonly")
	}
	body["UserName"], body["Enabled"] = user, true
	return v.lane.post(ctx, v.prio, string(s.Accounts), conf)
}

// rule is what the BMC demands of a password, in its own numbers.
func (s *accountService) rule() string {
	if !s.Min.Set || !s.Max.Set || s.Max.Value <= 0 {
		return "it does not tell the rule"
	}
	return fmt.Sprintf("it takes passwords of %.0f to %.0f characters, and none that are easily guessed", s.Min.Value, s.Max.Value)
}

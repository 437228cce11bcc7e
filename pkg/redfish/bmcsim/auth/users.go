// Package auth is who may use a BMC and how that is proved: accounts with their
// roles, passwords and lockout, and the sessions of those who are logged in. It is
// pure: the time is told, randomness is passed in, and nothing is known of HTTP.
package auth

import (
	"crypto/subtle"
	"io"
	"slices"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// Users are the accounts of a BMC, the sessions they have, and the rules for both.
// It is a part of what a BMC keeps in its flash; its owner guards it.
type Users struct {
	Accounts         map[string]*Account
	Sessions         []*Session
	SessionTimeout   int // seconds
	LockoutThreshold int // failed logins; 0: accounts are never locked
	LockoutDuration  int // seconds, 0: until unlocked
	Auth             Methods
}

// Methods are the ways to log in that are switched on.
type Methods struct{ BasicAuth, Cookie, SessionToken, TLS, XToken bool }

// ByName are the switches of all methods by their Redfish names.
func (m *Methods) ByName() map[string]*bool {
	return map[string]*bool{
		"BasicAuth": &m.BasicAuth, "Cookie": &m.Cookie, "SessionToken": &m.SessionToken, "TLS": &m.TLS, "XToken": &m.XToken,
	}
}

// Factory are the users of a fresh image: root, whose password must be changed
// first if expired is set.
func Factory(password fleet.Secret, expired, byCertificate bool, random io.Reader) (Users, error) {
	hashed, err := hash(password, random)
	if err != nil {
		return Users{}, err
	}
	return Users{
		Accounts:       map[string]*Account{"root": {Hash: hashed, Role: Administrator, Enabled: true, Expired: expired}},
		SessionTimeout: 1800,
		Auth:           Methods{BasicAuth: true, Cookie: true, SessionToken: true, TLS: byCertificate, XToken: true},
	}, nil
}

// Login checks a password at now and counts failures; changed reports whether
// it changed the account. A disabled or locked account, and one that does not
// exist, fail like a wrong password.
func (u *Users) Login(user string, password fleet.Secret, now time.Time) (in, changed bool) {
	a := u.Accounts[user]
	if a != nil && a.Enabled && !u.Locked(a, now) && matches(a.Hash, password) {
		changed = a.Failures > 0
		a.Failures = 0
		return true, changed
	}
	if a != nil && u.LockoutThreshold > 0 {
		a.Failures++
		a.Failed = now
		changed = true
	}
	return false, changed
}

// Locked reports whether failed logins have locked the account. Trying on
// prolongs it.
func (u *Users) Locked(a *Account, now time.Time) bool {
	if u.LockoutThreshold == 0 || a.Failures < u.LockoutThreshold {
		return false
	}
	return u.LockoutDuration == 0 || now.Before(a.Failed.Add(time.Duration(u.LockoutDuration)*time.Second))
}

// Session is somebody who is logged in.
type Session struct {
	ID, Token, User string
	Origin          string // the client's address
	Context         string // free text of the client
	XSRF            string // what a browser must show besides its cookie
	Used            time.Time
}

// OpenSession begins a session of a user. Its origin and context are the caller's to
// fill in.
func (u *Users) OpenSession(user string, now time.Time, random io.Reader) (*Session, error) {
	s := &Session{User: user, Used: now}
	for _, part := range []struct {
		to     *string
		length int
	}{{&s.ID, 10}, {&s.Token, 20}, {&s.XSRF, 20}} {
		var err error
		if *part.to, err = randomText(random, part.length); err != nil {
			return nil, err
		}
	}
	u.Sessions = append(u.Sessions, s)
	return s, nil
}

// SessionOf is the session with a token, nil if there is none. It is found in a
// time that does not tell how much of a token was right.
func (u *Users) SessionOf(token string) *Session {
	for _, s := range u.Sessions {
		if subtle.ConstantTimeCompare([]byte(s.Token), []byte(token)) == 1 {
			return s
		}
	}
	return nil
}

// Session is the one with an id, nil if there is none.
func (u *Users) Session(id string) *Session {
	for _, s := range u.Sessions {
		if s.ID == id {
			return s
		}
	}
	return nil
}

// ExpireSessions ends the sessions that were not used for the session timeout, and
// reports whether there were any.
func (u *Users) ExpireSessions(now time.Time) bool {
	oldest := now.Add(-time.Duration(u.SessionTimeout) * time.Second)
	return u.end(func(s *Session) bool { return s.Used.Before(oldest) })
}

// EndSession ends a session.
func (u *Users) EndSession(s *Session) { u.end(func(x *Session) bool { return x == s }) }

// EndSessions ends all sessions of a user.
func (u *Users) EndSessions(user string) { u.end(func(s *Session) bool { return s.User == user }) }

func (u *Users) end(which func(*Session) bool) bool {
	before := len(u.Sessions)
	u.Sessions = slices.DeleteFunc(u.Sessions, which)
	return len(u.Sessions) != before
}

package auth

import (
	"encoding/json"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// users are root and op, whose passwords are their names and "-pass-1".
func users(t *testing.T) *Users {
	t.Helper()
	random := rand.NewChaCha8([32]byte{1})
	u, err := Factory(fleet.NewSecret("root-pass-1"), false, true, random)
	if err != nil {
		t.Fatal(err)
	}
	op := &Account{Role: Operator, Enabled: true}
	if err := op.SetPassword("op", "op-pass-1", 8, random); err != nil {
		t.Fatal(err)
	}
	u.Accounts["op"] = op
	return &u
}

func open(t *testing.T, u *Users, user string, at time.Time) *Session {
	t.Helper()
	s, err := u.OpenSession(user, at, rand.NewChaCha8([32]byte{byte(len(u.Sessions)), byte(len(user))}))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAFreshImage(t *testing.T) {
	for _, tt := range []struct{ expired, byCertificate bool }{{false, true}, {true, false}} {
		u, err := Factory(fleet.NewSecret("0penBmc"), tt.expired, tt.byCertificate, rand.NewChaCha8([32]byte{}))
		if err != nil {
			t.Fatal(err)
		}
		root := u.Accounts["root"]
		if len(u.Accounts) != 1 || root.Role != Administrator || !root.Enabled || root.Expired != tt.expired {
			t.Errorf("its accounts are %+v", u.Accounts)
		}
		want := Methods{BasicAuth: true, Cookie: true, SessionToken: true, TLS: tt.byCertificate, XToken: true}
		if u.Auth != want || u.SessionTimeout != 1800 || u.LockoutThreshold != 0 {
			t.Errorf("its rules are %+v", u)
		}
		if in, _ := u.Login("root", fleet.NewSecret("0penBmc"), noon); !in {
			t.Error("its root can't log in")
		}
	}
}

func TestLogin(t *testing.T) {
	for _, tt := range []struct {
		name, user, password string
		change               func(u *Users)
		in, changed          bool
	}{
		{name: "right", user: "op", password: "op-pass-1", in: true},
		{name: "wrong, nothing is counted", user: "op", password: "op-pass-2"},
		{name: "another's", user: "op", password: "root-pass-1"},
		{name: "empty", user: "op"},
		{name: "nobody", user: "eve", password: "op-pass-1"},
		{name: "disabled", user: "op", password: "op-pass-1", change: func(u *Users) { u.Accounts["op"].Enabled = false }},
		{name: "a broken hash", user: "op", password: "op-pass-1", change: func(u *Users) { u.Accounts["op"].Hash = "$x" }},
		{
			name: "wrong, counted", user: "op", password: "op-pass-2", changed: true,
			change: func(u *Users) { u.LockoutThreshold = 3 },
		},
		{
			name: "right after failures forgives them", user: "op", password: "op-pass-1", in: true, changed: true,
			change: func(u *Users) { u.LockoutThreshold = 3; u.Accounts["op"].Failures = 2 },
		},
	} {
		u := users(t)
		if tt.change != nil {
			tt.change(u)
		}
		in, changed := u.Login(tt.user, fleet.NewSecret(tt.password), noon)
		if in != tt.in || changed != tt.changed {
			t.Errorf("%s: in %v changed %v, want %v %v", tt.name, in, changed, tt.in, tt.changed)
		}
		if in && u.Accounts["op"].Failures != 0 {
			t.Errorf("%s: failures are left", tt.name)
		}
	}
}

// The script is one of seconds and what is tried then; a locked account fails
// with the right password too, and each try prolongs the lock.
func TestLockout(t *testing.T) {
	const right, wrong = "op-pass-1", "op-pass-2"
	type try struct {
		at       int // seconds
		password string
		in, lock bool
	}
	for _, tt := range []struct {
		name                string
		threshold, duration int
		script              []try
	}{
		{"three bad ones lock for a minute", 3, 60, []try{
			{0, wrong, false, false},
			{1, wrong, false, false},
			{2, wrong, false, true},
			{30, right, false, true},
			{89, right, false, true},
			{149, right, true, false},
			{150, wrong, false, false},
		}},
		{"no duration is for ever", 1, 0, []try{
			{0, wrong, false, true},
			{1 << 30, right, false, true},
		}},
		{"no threshold never locks", 0, 60, []try{
			{0, wrong, false, false},
			{0, wrong, false, false},
			{0, right, true, false},
		}},
	} {
		u := users(t)
		u.LockoutThreshold, u.LockoutDuration = tt.threshold, tt.duration
		for _, step := range tt.script {
			now := noon.Add(time.Duration(step.at) * time.Second)
			in, _ := u.Login("op", fleet.NewSecret(step.password), now)
			if lock := u.Locked(u.Accounts["op"], now); in != step.in || lock != step.lock {
				t.Errorf("%s: second %d: in %v locked %v, want %v %v", tt.name, step.at, in, lock, step.in, step.lock)
			}
		}
	}
}

func TestSessionsLookLikeBmcwebs(t *testing.T) {
	s := open(t, users(t), "op", noon)
	for name, part := range map[string]struct{ text, want string }{
		"id": {s.ID, `^[A-Za-z0-9]{10}$`}, "token": {s.Token, `^[A-Za-z0-9]{20}$`}, "xsrf": {s.XSRF, `^[A-Za-z0-9]{20}$`},
	} {
		if !regexp.MustCompile(part.want).MatchString(part.text) {
			t.Errorf("%s %q is not %s", name, part.text, part.want)
		}
	}
	if s.User != "op" || !s.Used.Equal(noon) || s.Token == s.XSRF {
		t.Errorf("%+v", s)
	}
}

func TestFindingASession(t *testing.T) {
	u := users(t)
	one, two := open(t, u, "op", noon), open(t, u, "root", noon)
	if u.SessionOf(one.Token) != one || u.SessionOf(two.Token) != two || u.Session(two.ID) != two {
		t.Error("a session is not found")
	}
	for _, token := range []string{"", one.ID, one.Token[:19], one.Token + "x", strings.ToLower(one.Token)} {
		if s := u.SessionOf(token); s != nil {
			t.Errorf("the token %q finds %+v", token, s)
		}
	}
	if u.Session("") != nil || u.Session(one.Token) != nil {
		t.Error("a token serves as an id")
	}
	if !one.Shown(one.XSRF) || one.Shown(one.Token) || one.Shown("") {
		t.Error("the second token is not told from others")
	}
}

func TestNoRandomnessNoSession(t *testing.T) {
	u := users(t)
	if _, err := u.OpenSession("op", noon, strings.NewReader("short")); err == nil || len(u.Sessions) != 0 {
		t.Errorf("error %v, sessions %v", err, u.Sessions)
	}
}

func TestEnding(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(u *Users) bool
		left []string
	}{
		{"one", func(u *Users) bool { u.EndSession(u.Sessions[0]); return true }, []string{"op", "root"}},
		{"a user's", func(u *Users) bool { u.EndSessions("op"); return true }, []string{"root"}},
		{"nobody's", func(u *Users) bool { u.EndSessions("eve"); return true }, []string{"op", "op", "root"}},
		{"unused ones", func(u *Users) bool { return u.ExpireSessions(noon.Add(31 * time.Minute)) }, []string{"op", "root"}},
		{"all in time", func(u *Users) bool { return !u.ExpireSessions(noon.Add(30 * time.Minute)) }, []string{"op", "op", "root"}},
		{"by a shorter timeout", func(u *Users) bool { u.SessionTimeout = 30; return u.ExpireSessions(noon.Add(time.Hour)) }, nil},
	} {
		u := users(t)
		open(t, u, "op", noon)
		open(t, u, "op", noon.Add(time.Minute))
		open(t, u, "root", noon.Add(2*time.Minute))
		told := tt.end(u)
		var left []string
		for _, s := range u.Sessions {
			left = append(left, s.User)
		}
		if diff := cmp.Diff(tt.left, left); diff != "" || !told {
			t.Errorf("%s: told %v (-want +got):\n%s", tt.name, told, diff)
		}
	}
}

func TestMethodsByName(t *testing.T) {
	m := Methods{}
	for _, name := range []string{"BasicAuth", "Cookie", "SessionToken", "TLS", "XToken"} {
		*m.ByName()[name] = true
	}
	if m != (Methods{true, true, true, true, true}) || len(m.ByName()) != 5 {
		t.Errorf("%+v", m)
	}
}

// What is kept holds hashes; tokens are in clear text, as in bmcweb's file.
func TestWhatIsKeptHasNoPassword(t *testing.T) {
	u := users(t)
	text, err := json.Marshal(u)
	if err != nil {
		t.Fatal(err)
	}
	for _, password := range []string{"root-pass-1", "op-pass-1"} {
		if strings.Contains(string(text), password) {
			t.Errorf("a password is in %s", text)
		}
	}
	var back Users
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(u, &back); diff != "" {
		t.Errorf("it comes back other (-want +got):\n%s", diff)
	}
}

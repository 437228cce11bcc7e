package bmc_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/bmctest"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// store is what an agent keeps on its disk, in memory: a vault, the sessions
// and the digests of one BMC. It writes down what happens to it.
type store struct {
	mu      sync.Mutex
	logins  []redfish.Credentials
	uri     string
	open    bool
	digests map[string][]byte
	diary   []string
}

func newStore(password string) *store {
	return &store{
		logins:  []redfish.Credentials{{User: "root", Password: fleet.NewSecret(password)}},
		digests: map[string][]byte{},
	}
}

func (s *store) note(format string, args ...any) {
	s.diary = append(s.diary, fmt.Sprintf(format, args...))
}

func (s *store) Candidates(string) ([]redfish.Credentials, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logins, nil
}

func (s *store) Propose(_ string, next redfish.Credentials) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note("propose")
	s.logins = append([]redfish.Credentials{next}, s.logins...)
	return nil
}

func (s *store) Prove(_ string, proven redfish.Credentials) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note("prove")
	s.logins = []redfish.Credentials{proven}
	return nil
}

func (s *store) Save(_, uri string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uri, s.open = uri, true
	return nil
}

func (s *store) Load(string) (string, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.uri, s.open, nil
}

func (s *store) Forget(string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uri, s.open = "", false
	return nil
}

func digest(b, user string, password fleet.Secret) []byte {
	sum := sha256.Sum256([]byte(b + " " + user + " " + password.Reveal()))
	return sum[:]
}

func (s *store) Matches(b, user string, password fleet.Secret) (same, known bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, known := s.digests[user]
	return bytes.Equal(last, digest(b, user, password)), known, nil
}

func (s *store) Store(b, user string, password fleet.Secret) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note("digest of %s", user)
	s.digests[user] = digest(b, user, password)
	return nil
}

// quick is a server whose power changes at once, nearly.
func quick(change ...func(*bmcsim.Config)) bmcsim.Config {
	cfg := bmcsim.Config{Transition: 20 * time.Millisecond, PowerOn: true, Drives: []bmcsim.Drive{{ID: "sda", Bytes: 500_107_862_016, Media: "SSD"}}}
	for _, c := range change {
		c(&cfg)
	}
	return cfg
}

func start(tb testing.TB, sim bmcsim.Config) (*bmcsim.BMC, *store, *bmc.Lane) {
	tb.Helper()
	b, base := bmctest.Start(tb, sim)
	s := newStore(bmcsim.DefaultPassword)
	return b, s, open(tb, b, base, s, nil)
}

func open(tb testing.TB, b *bmcsim.BMC, base string, s *store, change func(*bmc.Config)) *bmc.Lane {
	tb.Helper()
	cfg := bmc.Config{
		Node: "n1", Vault: s, Digests: s, Poll: 5 * time.Millisecond, Settle: 5 * time.Second,
		BMC: redfish.Config{
			BMC: "b1", Address: strings.TrimPrefix(base, "https://"), Pin: b.Pin(), Sessions: s, Context: "chiba:r01:a1",
			Limits: redfish.Limits{Read: 5 * time.Second, Write: 5 * time.Second},
		},
	}
	if change != nil {
		change(&cfg)
	}
	l, err := bmc.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), 2*time.Second)
		defer cancel()
		_ = l.Close(ctx)
	})
	return l
}

// refs looks up elements as the compiler does.
func refs(tb testing.TB, names ...string) []scl.Ref {
	tb.Helper()
	var all []scl.Ref
	for _, name := range names {
		if uri, pointer, raw := strings.Cut(name, "#"); raw {
			all = append(all, scl.Ref{Text: name, Element: scl.RawElement(), URI: uri, Pointer: pointer})
			continue
		}
		e, param, ok := scl.Lookup(name)
		if !ok {
			tb.Fatalf("no element %q", name)
		}
		all = append(all, scl.Ref{Text: name, Element: e, Param: param})
	}
	return all
}

// shown writes readings as lines, "cpu.temp 57C", unknown ones with the reason.
func shown(readings []fleet.Reading) string {
	var b strings.Builder
	for _, r := range readings {
		fmt.Fprintf(&b, "%s %s", r.Ref, r.Value)
		if why := r.Value.Why(); why != "" {
			fmt.Fprintf(&b, " (%s)", why)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func set(tb testing.TB, b *bmcsim.BMC, ref, value string) {
	tb.Helper()
	if err := b.Set(ref, value); err != nil {
		tb.Fatal(err)
	}
}

// asked is what the BMC was asked since the last ResetStats, one line each.
func asked(b *bmcsim.BMC) string {
	var lines []string
	for _, r := range b.Requests() {
		lines = append(lines, r.Method+" "+r.Path)
	}
	return strings.Join(lines, "\n")
}

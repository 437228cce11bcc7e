package agent

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/chiba-mesh/chiba/agent/site"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/redfish/events"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/seal"
)

// ConfigFile is the configuration in a state directory.
const ConfigFile = "agent.yaml"

// SocketFile is the socket in a state directory.
const SocketFile = "agent.sock"

const noSocket = "none"

// FactoryOpenBMC is the login that a BMC with OpenBMC leaves the factory with.
const FactoryOpenBMC = "openbmc"

// defaultGiB is how much of the artifacts is kept.
const defaultGiB = 8

const (
	factoryUser     = "root"
	factoryPassword = "0penBmc" // it is printed in the manual
)

// Config is what an agent is told before it reaches anybody.
type Config struct {
	Name  fleet.AgentName `yaml:"name"` // as in its certificate
	Rack  fleet.RackName  `yaml:"rack"`
	Site  fleet.SiteName  `yaml:"site"`
	State string          `yaml:"state"` // directory for the spool and the keys

	// Coordinators are host:port, tried in turn; tcp://host:port dials a coordinator's
	// --mesh-tcp-addr, after the others, for a site that blocks UDP.
	Coordinators []string `yaml:"coordinators"`
	// Heartbeat is how often the agent says that it is alive, and so how long
	// a dead coordinator goes unnoticed; default 15 s. Each one costs both
	// sides about 0.15 ms of CPU.
	Heartbeat time.Duration `yaml:"heartbeat"`

	// Metrics is where to answer Prometheus, host:port; "": nowhere. There is no
	// login: whoever reaches it reads the rack's numbers, and nothing else.
	Metrics string `yaml:"metrics"`

	// Inventory is how often the agent reads what its servers are made of, to
	// tell what has changed; default 24 h.
	Inventory time.Duration `yaml:"inventory"`

	// Pair is the other agent of the rack, which stands by; without one this agent
	// works alone.
	Pair Pair `yaml:"pair"`

	// Our credentials in PEM; by default cert.pem, key.pem and ca.pem in State.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	CA   string `yaml:"ca"`

	// ScriptRoot is the file of the keys that sign the policy of authors, whose
	// scripts alone are run; by default script-root.json in State.
	ScriptRoot string `yaml:"script_root"`

	// Recovery is the public half of a key that lies offline, as chiba agent
	// recovery-key shows it: what opens the BMCs is kept in escrow.json in State,
	// sealed to it. "": a lost state directory is lost.
	Recovery string `yaml:"recovery"`

	// Interfaces of the BMC network to browse; by default every multicast
	// interface. NoMDNS browses none: then each node needs an address.
	Interfaces []string `yaml:"interfaces"`
	NoMDNS     bool     `yaml:"no_mdns"`

	// EventsListen is where BMCs deliver events that they don't stream, host:port
	// on the BMC network; "": nowhere. EventsURL is how they reach it, by default
	// https:// and EventsListen. The certificate is that of EventsCert and
	// EventsKey in PEM, by default our own; BMCs that check it must trust it.
	EventsListen string `yaml:"events_listen"`
	EventsURL    string `yaml:"events_url"`
	EventsCert   string `yaml:"events_cert"`
	EventsKey    string `yaml:"events_key"`

	// SiteListen is IP:PORT at which the other agents of the site reach this one;
	// "": it is alone. The port is for gossip (TCP and UDP), the next one for calls
	// (UDP). Who the others are the coordinators tell.
	SiteListen string `yaml:"site_listen"`
	// SiteJoin are such addresses of others, for as long as no coordinator has told
	// of any.
	SiteJoin []string `yaml:"site_join"`
	// Socket is where people on this machine speak to the agent: chiba --agent. By
	// default agent.sock in State; "none": nowhere.
	Socket string `yaml:"socket"`

	// Artifacts is the directory of firmware images; default artifacts in State.
	Artifacts string `yaml:"artifacts"`
	// ArtifactsGiB is how much of what was fetched is kept there, in GiB; default 8.
	// What was used longest ago goes first.
	ArtifactsGiB int `yaml:"artifacts_gib"`

	Login Login   `yaml:"login"` // for nodes that name none
	Nodes []Entry `yaml:"nodes"` // the catalogue

	Log *slog.Logger `yaml:"-"` // nil: slog.Default
	// Taken hears of every step of a take-over; nil: nobody does. It must not
	// block and may be called by several goroutines at once.
	Taken func(node fleet.NodeName, how fleet.BMCTrust) `yaml:"-"`

	// Now is the machine's clock; nil: time.Now.
	Now func() time.Time `yaml:"-"`

	// Written is when the catalogue was; zero: at the start of the agent.
	Written time.Time `yaml:"-"`
}

// Pair is the other agent of a rack. Each names the other.
type Pair struct {
	Name   fleet.AgentName `yaml:"name"`   // as in its certificate
	Listen string          `yaml:"listen"` // host:port (UDP) for the other one
	Peer   string          `yaml:"peer"`   // host:port (UDP) where the other one listens
	// Every is how often the other one is asked how it is; default 1 s. It counts as
	// dead when it has been silent for Patience; default 10 s.
	Every    time.Duration `yaml:"every"`
	Patience time.Duration `yaml:"patience"`
}

func (p Pair) check(self fleet.AgentName) error {
	if p == (Pair{}) {
		return nil
	}
	if !trust.ValidName(string(p.Name)) || p.Name == self {
		return fmt.Errorf("pair: name: %q is not the name of another agent", p.Name)
	}
	for field, addr := range map[string]string{"listen": p.Listen, "peer": p.Peer} {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return fmt.Errorf("pair: %s: %q is no host:port", field, addr)
		}
	}
	if p.every() < 100*time.Millisecond || p.patience() < 2*p.every() {
		return fmt.Errorf("pair: every: %s, patience: %s: it takes 100ms at least, and a patience of two of them", p.every(), p.patience())
	}
	return nil
}

func (p Pair) every() time.Duration    { return cmp.Or(p.Every, time.Second) }
func (p Pair) patience() time.Duration { return cmp.Or(p.Patience, 10*time.Second) }

// Login is how to log in on a BMC until a script sets another password.
type Login struct {
	User         string `yaml:"user"`
	PasswordFile string `yaml:"password_file"`
	Factory      string `yaml:"factory"` // "openbmc" instead of the other two

	Given *givenLogin `yaml:"-"` // instead of all of them: a person gave it for a BMC that they let in
}

// Entry is one node of the catalogue. Its BMC is known by its key and by nothing
// else; an address only tells where to look.
type Entry struct {
	Name    fleet.NodeName    `yaml:"name"`
	Pin     string            `yaml:"pin"` // "sha256/…" of the BMC's public key
	Address string            `yaml:"address"`
	Serial  string            `yaml:"serial"`
	Labels  map[string]string `yaml:"labels"`
	// TakeOver: the BMC shall become ours, with a certificate of the rack's, an
	// account of the agent's and nothing weak left open.
	TakeOver bool `yaml:"takeover"`
	Login    `yaml:",inline"`
}

// ReadConfig reads a configuration. Unknown and repeated fields are errors, which
// show the line. Relative paths are relative to the file's directory.
func ReadConfig(path string) (Config, error) {
	const op = "read configuration"
	raw, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fault.New(fault.BadInput, op, err.Error()).WithHint("the documentation has a sample: deploy/agent.yaml")
	}
	var c Config
	err = yaml.NewDecoder(bytes.NewReader(raw), yaml.Strict()).Decode(&c)
	if err != nil && !errors.Is(err, io.EOF) { // an empty file lacks fields, as check says
		return Config{}, fault.New(fault.BadInput, op, path+": "+strings.TrimSpace(yaml.FormatError(err, false, true)))
	}
	if at, statErr := os.Stat(path); statErr == nil {
		c.Written = at.ModTime()
	}
	dir := filepath.Dir(path)
	if c.State == "" {
		c.State = dir
	}
	c.relativeTo(dir)
	if err := c.check(); err != nil {
		return Config{}, fault.New(fault.BadInput, op, path+": "+err.Error())
	}
	return c, nil
}

func (c *Config) relativeTo(dir string) {
	paths := []*string{&c.State, &c.Cert, &c.Key, &c.CA, &c.ScriptRoot, &c.Login.PasswordFile, &c.EventsCert, &c.EventsKey, &c.Artifacts}
	for i := range c.Nodes {
		paths = append(paths, &c.Nodes[i].PasswordFile)
	}
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	if c.Socket != "" && c.Socket != noSocket && !filepath.IsAbs(c.Socket) {
		c.Socket = filepath.Join(dir, c.Socket)
	}
}

// surveyEvery is how often an inventory is taken.
func (c *Config) surveyEvery() time.Duration {
	if c.Inventory == 0 {
		return defaultSurvey
	}
	return c.Inventory
}

// credentials are read anew for each session, so that renewed ones are used.
func (c *Config) credentials() (trust.Credentials, error) {
	return trust.LoadFiles(c.certFile(), cmp.Or(c.Key, filepath.Join(c.State, trust.KeyFile)), c.rootsFile())
}

func (c *Config) certFile() string  { return cmp.Or(c.Cert, filepath.Join(c.State, trust.CertFile)) }
func (c *Config) rootsFile() string { return cmp.Or(c.CA, filepath.Join(c.State, trust.CAFile)) }

// check says the first thing that is wrong, as the person wrote it.
func (c *Config) check() error {
	if !trust.ValidName(string(c.Name)) {
		return fmt.Errorf("name: %q is no name; it takes 1 to 63 letters, digits, '-', '_' or '.'", c.Name)
	}
	if !trust.ValidLabel(string(c.Rack)) {
		return fmt.Errorf("rack: %q is no name; %s", c.Rack, trust.LabelRule)
	}
	if c.Site != "" && !trust.ValidLabel(string(c.Site)) {
		return fmt.Errorf("site: %q is no name; %s", c.Site, trust.LabelRule)
	}
	if c.State == "" {
		return errors.New("state: a directory is needed")
	}
	if len(c.Coordinators) == 0 {
		return errors.New("coordinators: at least one host:port is needed")
	}
	for _, addr := range c.Coordinators {
		if _, _, err := net.SplitHostPort(strings.TrimPrefix(addr, mesh.TCP)); err != nil {
			return fmt.Errorf("coordinators: %w", err)
		}
	}
	if c.Heartbeat != 0 && c.Heartbeat < time.Second {
		return fmt.Errorf("heartbeat: %s is too often, the least is 1s", c.Heartbeat)
	}
	if _, _, err := net.SplitHostPort(c.Metrics); c.Metrics != "" && err != nil {
		return fmt.Errorf("metrics: %q is no host:port", c.Metrics)
	}
	if c.Inventory != 0 && c.Inventory < leastSurvey {
		return fmt.Errorf("inventory: %s is too often, the least is %s", c.Inventory, leastSurvey)
	}
	if c.ArtifactsGiB < 0 {
		return fmt.Errorf("artifacts_gib: %d is less than nothing", c.ArtifactsGiB)
	}
	if err := errors.Join(c.checkSite(), c.Pair.check(c.Name), c.checkEvents()); err != nil {
		return err
	}
	if c.Recovery != "" {
		if _, err := seal.ParseText(c.Recovery, string(c.Rack)); err != nil {
			return fmt.Errorf("recovery: %w", err)
		}
	}
	if err := c.Login.check(); err != nil {
		return fmt.Errorf("login: %w", err)
	}
	return c.checkNodes()
}

func (c *Config) checkSite() error {
	if c.SiteListen == "" {
		if len(c.SiteJoin) > 0 {
			return errors.New("site_join: it means nothing without site_listen")
		}
		return nil
	}
	if _, _, err := site.ParseListen(c.SiteListen); err != nil {
		return fmt.Errorf("site_listen: %w", err)
	}
	for _, addr := range c.SiteJoin {
		if _, err := netip.ParseAddrPort(addr); err != nil {
			return fmt.Errorf("site_join: %q is no IP:PORT", addr)
		}
	}
	return nil
}

func (c *Config) checkEvents() error {
	if c.EventsListen == "" {
		if c.EventsURL+c.EventsCert+c.EventsKey != "" {
			return errors.New("events_listen: the other events_ fields mean nothing without it")
		}
		return nil
	}
	host, _, err := net.SplitHostPort(c.EventsListen)
	if err != nil {
		return fmt.Errorf("events_listen: %w", err)
	}
	if (c.EventsCert == "") != (c.EventsKey == "") {
		return errors.New("events_cert and events_key are needed together")
	}
	if ip := net.ParseIP(host); c.EventsURL == "" && (host == "" || ip != nil && ip.IsUnspecified()) {
		return fmt.Errorf("events_url: %q tells no BMC where to deliver, so it is needed", c.EventsListen)
	}
	if u, err := url.Parse(c.eventsURL()); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return fmt.Errorf("events_url: %q is not https://HOST:PORT", c.EventsURL)
	}
	return nil
}

func (c *Config) eventsURL() string {
	if c.EventsURL != "" {
		return c.EventsURL
	}
	return "https://" + c.EventsListen
}

// eventsCert is the files of the certificate and the key that BMCs are shown.
func (c *Config) eventsCert() (cert, key string) {
	own := func(path, name string) string {
		if path == "" {
			return filepath.Join(c.State, name)
		}
		return path
	}
	if c.EventsCert != "" {
		return c.EventsCert, c.EventsKey
	}
	return own(c.Cert, trust.CertFile), own(c.Key, trust.KeyFile)
}

// artifacts is the directory of firmware images.
func (c *Config) socket() string {
	if c.Socket == noSocket {
		return ""
	}
	return cmp.Or(c.Socket, filepath.Join(c.State, SocketFile))
}

func (c *Config) artifacts() string {
	if c.Artifacts != "" {
		return c.Artifacts
	}
	return filepath.Join(c.State, "artifacts")
}

// artifactsQuota is how many bytes of what was fetched are kept.
func (c *Config) artifactsQuota() int64 { return int64(cmp.Or(c.ArtifactsGiB, defaultGiB)) << 30 }

// receiver is where BMCs deliver events, nil without an address.
func (c *Config) receiver() *events.Receiver {
	if c.EventsListen == "" {
		return nil
	}
	return events.NewReceiver(c.eventsURL())
}

// mark is what sessions and subscriptions of the rack's agents on a BMC are known
// by: those of who, the agent, or the epoch if there are two.
func (c *Config) mark(who string) string { return fmt.Sprintf("chiba:%s:%s", c.Rack, who) }

func (c *Config) checkNodes() error {
	names, pins := map[string]bool{}, map[string]fleet.NodeName{}
	for i, n := range c.Nodes {
		if !trust.ValidName(string(n.Name)) {
			return fmt.Errorf("nodes[%d]: %q is no name", i, n.Name)
		}
		if names[string(n.Name)] {
			return fmt.Errorf("nodes: %s is there twice", n.Name)
		}
		if !strings.HasPrefix(n.Pin, "sha256/") {
			return fmt.Errorf("nodes: %s: pin: %q does not begin with sha256/", n.Name, n.Pin)
		}
		if other, taken := pins[n.Pin]; taken {
			return fmt.Errorf("nodes: %s and %s have one pin", other, n.Name)
		}
		if err := n.check(); err != nil {
			return fmt.Errorf("nodes: %s: %w", n.Name, err)
		}
		if n.Login == (Login{}) && c.Login == (Login{}) {
			return fmt.Errorf("nodes: %s: no login, and no common one", n.Name)
		}
		names[string(n.Name)], pins[n.Pin] = true, n.Name
	}
	return nil
}

func (l Login) check() error {
	switch {
	case l == (Login{}):
		return nil
	case l.Factory != "" && l.Factory != FactoryOpenBMC:
		return fmt.Errorf("factory: %q is not known; there is %s", l.Factory, FactoryOpenBMC)
	case l.Factory != "" && (l.User != "" || l.PasswordFile != ""):
		return errors.New("factory stands alone, without user and password_file")
	case l.Factory == "" && (l.User == "" || l.PasswordFile == ""):
		return errors.New("user and password_file are needed together")
	}
	return nil
}

// isFactory reports whether everybody knows a login.
func isFactory(user string, password fleet.Secret) bool {
	return user == factoryUser && password.Reveal() == factoryPassword
}

// read is the user and the password. The file is read at each login, so that it
// can be changed without a restart; the white space at its end does not count.
func (l Login) read() (user string, password fleet.Secret, err error) {
	if l.Given != nil {
		return l.Given.read()
	}
	if l.Factory == FactoryOpenBMC {
		return factoryUser, fleet.NewSecret(factoryPassword), nil
	}
	raw, err := os.ReadFile(l.PasswordFile)
	if err != nil {
		return "", fleet.Secret{}, fault.Wrap(fault.BadInput, "read password file", err)
	}
	return l.User, fleet.NewSecret(strings.TrimRight(string(raw), " \t\r\n")), nil
}

// loginOf is how to log in on a node's BMC.
func (c *Config) loginOf(e Entry) Login {
	if e.Login != (Login{}) {
		return e.Login
	}
	return c.Login
}

// addresses are the ones that the catalogue tells, each with a port.
func (c *Config) addresses() []string {
	var all []string
	for _, n := range c.Nodes {
		if n.Address != "" {
			all = append(all, withPort(n.Address))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func withPort(addr string) string {
	if _, _, err := net.SplitHostPort(addr); err == nil {
		return addr
	}
	return net.JoinHostPort(strings.Trim(addr, "[]"), "443")
}

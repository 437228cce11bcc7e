// Package bmcsim is a BMC as OpenBMC's web server shows it: one server behind
// real HTTPS, with sessions, accounts, power, sensors and logs that move.
//
// It answers as bmcweb does down to status codes, headers and error bodies,
// oddities included, because a client that only ever met a clean service
// breaks on the first real one. What it does not do is absent (404), never
// pretended.
//
// Everything that changes with time (power transitions, sensors, lockout,
// session expiry) is a function of the clock that is passed in. Only Serve starts
// goroutines, and it waits for them.
package bmcsim

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"hash/fnv"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/certs"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/events"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/hardware"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/sensors"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/tasks"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/traffic"
)

// DefaultPassword is the password of root on a fresh OpenBMC image.
const DefaultPassword = "0penBmc"

// Config is the hardware of a BMC and of the server it manages, and how the
// simulator behaves. What a client can change lives in State instead. The zero
// Config is a two-socket server that is switched off.
type Config struct {
	Hostname     string // also in the certificate; default "testhost"
	Manufacturer string // default "Chiba Simulated Systems"
	Model        string // default "SIM-1U-2S"
	Serial       string // default derived from Hostname

	Password          fleet.Secret // of root at first start; default DefaultPassword
	MinPasswordLength int          // default 8, as OpenBMC's

	CPUs   int     // default 2
	DIMMs  int     // of 32 GiB each; default 4
	Fans   int     // default 4
	Drives []Drive // default none
	PCIe   []PCIe  // default none
	Board  bool    // a mainboard is a chassis of its own
	// HostNIC is the host's network interface eth0. OpenBMC shows none (nil).
	HostNIC *NIC

	PowerOn    bool          // at first start
	Transition time.Duration // how long powering on or off takes; default 2 s
	Latency    time.Duration // added to every request
	FailDelay  time.Duration // added to a failed login; real ones take 2 s
	CSRTime    time.Duration // how long making a signing request takes
	UpdateTime time.Duration // how long taking in an image takes; default 4 s
	ResetTime  time.Duration // how long a restarting BMC is away; default: it never is
	// OnRestart is told that the BMC goes away, before who asked for it has its
	// answer. It must not block nor use the BMC. Default: nobody is told.
	OnRestart func()
	// Around is put around what answers: it sees each request before the BMC does
	// and its answer before the client does. Default: nothing.
	Around func(http.Handler) http.Handler
	// Patience is how long a handshake or a request may stop in its middle before
	// the connection is cut; default 15 s, as bmcweb's.
	Patience time.Duration

	// DBusLog keeps the event log as a build with the D-Bus log does: other ids,
	// newest first, entries can be resolved and deleted, no event is sent.
	DBusLog bool
	// Expand is a build that understands $expand.
	Expand bool
	// Epoch starts the BMC's clock in 1970 at each start and restart, as that of
	// a board without a battery, until it is set.
	Epoch bool
	// Concurrency is how many requests are in work at once, Latency included;
	// default: as many as there are connections.
	Concurrency int

	// MustChange is a fresh image whose root has to change its password before
	// anything else.
	MustChange bool
	// NoTLSLogin is a build without mutual TLS.
	NoTLSLogin bool
	// WebUI is a build with the web interface: clients are asked for a
	// certificate in strict mode only.
	WebUI bool

	StateFile string           // where State is kept; empty: in memory
	Seed      uint64           // of the sensors; default derived from Serial
	Now       func() time.Time // default time.Now
	Rand      io.Reader        // of keys, tokens and identities; default crypto/rand
}

// Drive is a disk of the server.
type Drive = hardware.Drive

// PCIe is a card in the server.
type PCIe = hardware.PCIe

// NIC is a network interface of the host with one IPv4 address.
type NIC = hardware.NIC

// BMC is one simulated BMC. All its methods are safe for concurrent use.
type BMC struct {
	cfg     Config
	routes  []route
	server  hardware.Server
	sensors []sensors.Sensor

	// mu makes requests strictly sequential, as bmcweb's single thread does.
	mu    sync.Mutex
	state *State
	cert  *tls.Certificate
	// csrUntil is when the signing request in work is done.
	csrUntil time.Time
	start    time.Time
	// slots bound Config.Concurrency; nil: no bound.
	slots chan struct{}
	tasks tasks.List
	// A restarting BMC answers nobody from gone until away.
	gone, away time.Time
	// defaults: the next restart forgets everything.
	defaults bool

	hub     *events.Hub
	faults  faultBox
	counter *traffic.Counter
}

// New builds a BMC, or continues the one that Config.StateFile holds: same
// certificate, same accounts, same live sessions.
func New(cfg Config) (*BMC, error) {
	cfg = cfg.withDefaults()
	server := hardware.Server{Serial: cfg.Serial, CPUs: cfg.CPUs, DIMMs: cfg.DIMMs, Fans: cfg.Fans, Drives: cfg.Drives, PCIe: cfg.PCIe}
	b := &BMC{cfg: cfg, server: server, routes: routes(cfg), sensors: sensors.Of(cfg.CPUs, cfg.Fans), start: cfg.Now()}
	if cfg.Concurrency > 0 {
		b.slots = make(chan struct{}, cfg.Concurrency)
	}
	b.counter = traffic.New(cfg.Now, sessionsURI)
	st, err := loadState(cfg.StateFile)
	if err != nil {
		return nil, err
	}
	if st == nil {
		if st, err = freshState(cfg); err != nil {
			return nil, err
		}
	}
	for _, s := range st.Sessions {
		s.Used = cfg.Now() // its use is not saved; bmcweb too begins to count anew
	}
	b.state = st
	b.startClock(cfg.Now())
	b.hub = events.NewHub(cfg.Now, b.unreachable)
	b.subscribe()
	if b.cert, err = st.keyPair(); err != nil {
		return nil, fault.Wrap(fault.BadInput, "read the certificate in "+cfg.StateFile, err)
	}
	return b, st.save(cfg.StateFile)
}

func (c Config) withDefaults() Config {
	orText(&c.Hostname, "testhost")
	orText(&c.Manufacturer, "Chiba Simulated Systems")
	orText(&c.Model, "SIM-1U-2S")
	orText(&c.Serial, "SIM"+hex8(c.Hostname))
	if c.Password.Empty() {
		c.Password = fleet.NewSecret(DefaultPassword)
	}
	orInt(&c.MinPasswordLength, 8)
	orInt(&c.CPUs, 2)
	orInt(&c.DIMMs, 4)
	orInt(&c.Fans, 4)
	if c.Transition == 0 {
		c.Transition = 2 * time.Second
	}
	if c.Patience == 0 {
		c.Patience = 15 * time.Second
	}
	if c.UpdateTime == 0 {
		c.UpdateTime = 4 * time.Second
	}
	if c.Seed == 0 {
		c.Seed = hash64(c.Serial)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	return c
}

// Serial is the serial number of the server.
func (b *BMC) Serial() string { return b.cfg.Serial }

// Hostname is the name the BMC has now; a client can change it.
func (b *BMC) Hostname() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state.Hostname
}

// Pin is "sha256/" and the base64 SHA-256 of the certificate's public key. It
// changes when the host name does, because OpenBMC then makes a new key.
func (b *BMC) Pin() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return PinOf(b.cert.Leaf)
}

// PinOf is the pin of a certificate: "sha256/" and the base64 SHA-256 of its
// public key (SubjectPublicKeyInfo).
func PinOf(cert *x509.Certificate) string { return certs.Pin(cert) }

// ForgetSessions ends every session, as a BMC does that lost its flash.
func (b *BMC) ForgetSessions() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state.Sessions = nil
	return b.state.save(b.cfg.StateFile)
}

func orText(s *string, value string) {
	if *s == "" {
		*s = value
	}
}

func orInt(n *int, value int) {
	if *n == 0 {
		*n = value
	}
}

func hash64(s string) uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, s)
	return h.Sum64()
}

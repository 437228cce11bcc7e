package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

// Config is a rack.
type Config struct {
	Dir     string // of the state; made if it is not there
	Specs   []Spec
	Mocks   []Mock
	Latency time.Duration        // added to every request of every BMC
	Quiet   bool                 // announce nothing over mDNS
	Shape   func(*bmcsim.Config) // of every BMC, the last word; nil: as specified
}

// Rack is a set of running BMCs. Its methods are safe for concurrent use.
type Rack struct {
	dir      string
	units    []*rackUnit
	byName   map[fleet.NodeName]*rackUnit
	mocks    []recorded
	control  net.Listener
	announce announcer
	quiet    error // why nothing was announced
}

type rackUnit struct {
	name     fleet.NodeName
	bmc      *bmcsim.BMC
	listener net.Listener
}

// Node is what the site catalogue must know to find and trust a BMC.
type Node struct {
	Name    fleet.NodeName `json:"name"`
	Address string         `json:"address"` // host:port
	Pin     string         `json:"pin"`     // "sha256/BASE64" of the certificate's public key
	Serial  string         `json:"serial"`
	Power   string         `json:"power"`
	Fault   string         `json:"fault"`
}

var nodeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// Open makes the BMCs, or continues those whose state is in cfg.Dir, and
// listens: on the ports they had before where those are free. Either Run or
// Close must follow.
func Open(ctx context.Context, cfg Config) (*Rack, error) {
	if err := os.MkdirAll(filepath.Join(cfg.Dir, "sim"), 0o700); err != nil {
		return nil, fault.New(fault.BadInput, "make the state directory", err.Error()).WithHint("name another one with --state DIR")
	}
	r := &Rack{dir: cfg.Dir, byName: map[fleet.NodeName]*rackUnit{}}
	if err := r.open(ctx, cfg); err != nil {
		r.Close()
		return nil, err
	}
	r.quiet = errors.New("announcing is switched off")
	if !cfg.Quiet {
		r.quiet = r.announce.start(r.Nodes())
	}
	return r, nil
}

func (r *Rack) open(ctx context.Context, cfg Config) error {
	var err error
	if r.control, err = listenControl(ctx, cfg.Dir); err != nil {
		return err
	}
	ports := loadPorts(r.portsFile())
	for _, s := range cfg.Specs {
		if err := r.add(ctx, cfg, s, ports); err != nil {
			return err
		}
	}
	for _, m := range cfg.Mocks {
		if err := r.addMock(ctx, m, ports); err != nil {
			return err
		}
	}
	return r.savePorts()
}

func (r *Rack) add(ctx context.Context, cfg Config, s Spec, ports map[fleet.NodeName]int) error {
	if !nodeName.MatchString(string(s.Name)) || r.byName[s.Name] != nil {
		return fault.New(fault.BadInput, "make the rack", fmt.Sprintf("%q is no name for a server, or it is there twice", s.Name))
	}
	c := s.Config
	if c.Hostname == "" {
		c.Hostname = strings.ToLower(string(s.Name))
	}
	c.Latency += cfg.Latency
	c.StateFile = filepath.Join(cfg.Dir, "sim", string(s.Name)+".json")
	if cfg.Shape != nil {
		cfg.Shape(&c)
	}
	bmc, err := bmcsim.New(c)
	if err != nil {
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	l, err := listen(ctx, ports[s.Name])
	if err != nil {
		return fault.Wrap(fault.Unavailable, "listen for "+string(s.Name), err)
	}
	u := &rackUnit{name: s.Name, bmc: bmc, listener: l}
	r.units, r.byName[s.Name] = append(r.units, u), u
	return nil
}

// listen takes the wanted port of the loopback interface, or any.
func listen(ctx context.Context, port int) (net.Listener, error) {
	lc := net.ListenConfig{}
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil && port != 0 {
		return lc.Listen(ctx, "tcp", "127.0.0.1:0")
	}
	return l, err
}

func (r *Rack) portsFile() string { return filepath.Join(r.dir, "sim", "ports.json") }

// loadPorts is empty if there are none: then every port is as good.
func loadPorts(path string) map[fleet.NodeName]int {
	ports := map[fleet.NodeName]int{}
	if text, err := os.ReadFile(path); err == nil {
		_ = json.Unmarshal(text, &ports)
	}
	return ports
}

func (r *Rack) savePorts() error {
	ports := loadPorts(r.portsFile())
	for _, u := range r.units {
		if a, isTCP := u.listener.Addr().(*net.TCPAddr); isTCP {
			ports[u.name] = a.Port
		}
	}
	for _, m := range r.mocks {
		if a, isTCP := m.listener.Addr().(*net.TCPAddr); isTCP {
			ports[m.name] = a.Port
		}
	}
	text, err := json.MarshalIndent(ports, "", " ")
	if err != nil {
		return fault.Wrap(fault.Internal, "save the ports", err)
	}
	return fault.Wrap(fault.Internal, "save the ports", os.WriteFile(r.portsFile(), text, 0o600))
}

// Run serves until ctx ends or something fails, and then closes everything.
func (r *Rack) Run(ctx context.Context) error {
	defer r.Close()
	g, ctx := errgroup.WithContext(ctx)
	for _, u := range r.units {
		g.Go(func() error {
			if err := u.bmc.Serve(ctx, u.listener); err != nil {
				return fmt.Errorf("%s: %w", u.name, err)
			}
			return nil
		})
	}
	for _, m := range r.mocks {
		g.Go(func() error {
			if err := m.server.Serve(ctx, m.listener); err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
			return nil
		})
	}
	g.Go(func() error { return r.serveControl(ctx) })
	return g.Wait()
}

// Close ends what Open began. Run does it by itself.
func (r *Rack) Close() {
	r.announce.stop()
	for _, u := range r.units {
		_ = u.listener.Close()
	}
	for _, m := range r.mocks {
		_ = m.listener.Close()
	}
	if r.control != nil {
		_ = r.control.Close()
	}
}

// Announced is nil if the BMCs can be found over mDNS, else why they can't.
func (r *Rack) Announced() error { return r.quiet }

// Nodes are the servers in the order of their specs, then the recorded ones.
func (r *Rack) Nodes() []Node {
	nodes := make([]Node, len(r.units))
	for i, u := range r.units {
		power := "unknown"
		if state, err := u.bmc.Get("power.state"); err == nil {
			power = state[0].Value.String()
		}
		nodes[i] = Node{
			Name: u.name, Address: u.listener.Addr().String(), Pin: u.bmc.Pin(), Serial: u.bmc.Serial(),
			Power: power, Fault: string(u.bmc.CurrentFault().Kind),
		}
	}
	for _, m := range r.mocks {
		nodes = append(nodes, m.node())
	}
	return nodes
}

// BMC is the BMC of a server.
func (r *Rack) BMC(name fleet.NodeName) (*bmcsim.BMC, error) {
	if u := r.byName[name]; u != nil {
		return u.bmc, nil
	}
	return nil, fault.New(fault.NotFound, "", fmt.Sprintf("there is no server %q in the simulated rack", name)).
		WithHint("one of " + r.someNames())
}

// someNames are the first names, as many as a hint can bear.
func (r *Rack) someNames() string {
	const most = 12
	names := make([]string, 0, most)
	for _, u := range r.units[:min(len(r.units), most)] {
		names = append(names, string(u.name))
	}
	text := strings.Join(names, ", ")
	if rest := len(r.units) - most; rest > 0 {
		text += fmt.Sprintf(" and %d more: chiba sim nodes", rest)
	}
	return text
}

package dev

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/chiba-mesh/chiba/agent"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/sim"
)

// rackFile tells the agent, which may run in another process, what is in the
// rack and where it was told to look.
const rackFile = "rack.yaml"

// rack is what stands in rack.yaml.
type rack struct {
	// Loopback is the interface on which the simulated BMCs announce
	// themselves; empty: they can't, and Silent says why.
	Loopback string  `yaml:"loopback,omitempty"`
	Silent   string  `yaml:"silent,omitempty"`
	Nodes    []entry `yaml:"nodes"`
	// Own are BMCs that are not simulated: --bmc.
	Own []entry `yaml:"own,omitempty"`
}

// entry is one BMC.
type entry struct {
	Name         fleet.NodeName `yaml:"name"`
	Rack         string         `yaml:"rack,omitempty"` // default: the first
	Address      string         `yaml:"address"`
	Pin          string         `yaml:"pin"`
	Serial       string         `yaml:"serial,omitempty"`
	User         string         `yaml:"user,omitempty"`
	PasswordFile string         `yaml:"password_file,omitempty"`
}

func (l layout) readRack() (rack, error) {
	text, err := os.ReadFile(l.path(rackFile))
	if errors.Is(err, fs.ErrNotExist) {
		return rack{}, nil
	}
	if err != nil {
		return rack{}, fault.Wrap(fault.Unavailable, "read "+rackFile, err)
	}
	var r rack
	if err := yaml.UnmarshalWithOptions(text, &r, yaml.Strict()); err != nil {
		return rack{}, fault.New(fault.BadInput, "read "+rackFile, strings.TrimSpace(yaml.FormatError(err, false, true))).
			WithHint("remove the file: it is written anew at each start")
	}
	return r, nil
}

func (l layout) writeRack(r rack) error {
	text, err := yaml.Marshal(r)
	if err != nil {
		return fault.Wrap(fault.Internal, "write "+rackFile, err)
	}
	return writeFile(l.path(rackFile), text)
}

// describe is what the agent must know of the simulated rack.
func (r *rack) describe(simulated *sim.Rack) {
	r.Nodes, r.Loopback, r.Silent = nil, "", ""
	for _, n := range simulated.Nodes() {
		r.Nodes = append(r.Nodes, entry{Name: n.Name, Rack: rackOf(n.Name), Address: n.Address, Pin: n.Pin, Serial: n.Serial})
	}
	if err := simulated.Announced(); err != nil {
		r.Silent = err.Error()
		return
	}
	if r.Loopback = loopback(); r.Loopback == "" {
		r.Silent = "this machine has no loopback interface"
	}
}

// rackOf is the rack of a simulated node: that of its name, r02-u01, or the first.
func rackOf(name fleet.NodeName) string {
	rack, _, _ := strings.Cut(string(name), "-")
	for n := 2; n <= mostRacks; n++ {
		if rack == rackName(n) {
			return rack
		}
	}
	return ""
}

// in reports whether the node stands in the nth rack.
func (e entry) in(n int) bool { return e.Rack == rackName(n) || e.Rack == "" && n == 1 }

func loopback() string {
	all, err := net.Interfaces()
	if err != nil {
		return ""
	}
	for _, i := range all {
		if i.Flags&net.FlagLoopback != 0 && i.Flags&net.FlagUp != 0 {
			return i.Name
		}
	}
	return ""
}

// agentConfig is the configuration of the agent of the rack of that number.
func (r *rack) agentConfig(l layout, number int, coordinators []string) agent.Config {
	c := agent.Config{
		Name: fleet.AgentName(agentName(number)), Rack: fleet.RackName(rackName(number)), Site: siteName,
		State:        l.agent(number),
		Coordinators: coordinators,
		Login:        agent.Login{Factory: agent.FactoryOpenBMC},
		NoMDNS:       r.Loopback == "",
		Heartbeat:    2 * time.Second, // few agents: they may notice a death sooner
	}
	if r.Loopback != "" {
		c.Interfaces = []string{r.Loopback}
	}
	for _, n := range r.Nodes {
		if !n.in(number) {
			continue
		}
		node := agent.Entry{Name: n.Name, Pin: n.Pin, Serial: n.Serial, TakeOver: true}
		if c.NoMDNS {
			node.Address = n.Address
		}
		c.Nodes = append(c.Nodes, node)
	}
	for _, n := range r.Own {
		if !n.in(number) {
			continue
		}
		node := agent.Entry{Name: n.Name, Pin: n.Pin, Address: n.Address}
		if n.PasswordFile != "" {
			node.Login = agent.Login{User: n.User, PasswordFile: n.PasswordFile}
		}
		c.Nodes = append(c.Nodes, node)
	}
	return c
}

var notInName = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// parseBMC reads one --bmc: [NAME=]https://HOST[:PORT]. Without a name the node
// is called after its address.
func parseBMC(text string) (entry, error) {
	name, address, named := strings.Cut(text, "=")
	if !named {
		name, address = "", text
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return entry{}, fault.New(fault.BadInput, "", fmt.Sprintf("--bmc %q is not [NAME=]https://HOST[:PORT]", text)).
			WithHint("for example: --bmc lab-1=https://10.0.0.5 --bmc-user root --bmc-password-file FILE")
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	if name == "" {
		name = strings.Trim(notInName.ReplaceAllString(u.Hostname()+"-"+port, "-"), "-")
	}
	return entry{Name: fleet.NodeName(name), Address: net.JoinHostPort(u.Hostname(), port)}, nil
}

// meet adds a BMC that is not ours. At the first meeting its key is taken as it
// is and told to the person, who can compare it; from then on it is the only one
// accepted, so nobody can take its place to be given the password.
func (r *rack) meet(ctx context.Context, e entry, say func(string, ...any)) error {
	taken := func(n entry) bool { return n.Name == e.Name }
	if slices.ContainsFunc(r.Nodes, taken) {
		return fault.New(fault.BadInput, "", fmt.Sprintf("--bmc: %s is the name of a simulated node", e.Name)).
			WithHint("give another one: --bmc NAME=https://…")
	}
	if at := slices.IndexFunc(r.Own, taken); at >= 0 {
		e.Pin = r.Own[at].Pin
		r.Own[at] = e
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	pin, err := redfish.Fingerprint(ctx, e.Address)
	if err != nil {
		return fault.New(fault.KindOf(err), "--bmc "+string(e.Name), err.Error()).
			WithHint("is the address right, and can it be reached from here?")
	}
	e.Pin = pin
	r.Own = append(r.Own, e)
	say("  %s is met for the first time: its key is\n    %s\n  and no other is believed from now on", e.Name, pin)
	return nil
}

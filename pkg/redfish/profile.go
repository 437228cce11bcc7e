package redfish

import (
	"slices"
	"strings"
	"time"
)

// IfMatch is what a BMC makes of the If-Match header of a PATCH.
type IfMatch int

// The ways of If-Match. It never goes with a POST: an action has no state of
// its own to match, and iDRACs answer 412 (ironcore-dev/metal-operator#1015).
const (
	IfMatchNever  IfMatch = iota // not sent, until the BMC demands it with 428 or 412
	IfMatchAlways                // sent as the BMC wrote the tag, which is read for it if it is not known
	IfMatchQuoted                // sent in one pair of quotes, without W/, however the BMC wrote it
)

// Profile is how to treat a make of BMC: its limits and its quirks, as data. It
// is what is safe to begin with; what a BMC answers counts for more.
type Profile struct {
	Name        string
	MaxSessions int           // logins it holds at once; 0: not known
	MaxReads    int           // reads at once over HTTP/2, at most
	IfMatch     IfMatch       // for PATCH
	CloseEach   bool          // a connection serves one request only
	Streams     int           // event streams it serves at once
	Reconnect   time.Duration // at least so long between two event streams
	Silence     time.Duration // an event stream that was silent for so long is dead
	PowerRetry  time.Duration // for so long a change of power that it refused with 409 is asked for again
	WriteWait   time.Duration // how long a write may take; 0: as the limits say
	// UpdateTarget: an upload of firmware has to name exactly one image to replace.
	UpdateTarget bool
	BootMode     bool    // a change of the boot source has to repeat the boot mode
	Holds        bool    // a change that it answers with 2xx is made: a restart may build on it unread
	Quirks       []Quirk // where each of these is known from
}

// Quirk says where a field of a profile is known from.
type Quirk struct{ Field, Fact, Source string }

// signs are by what a profile is known. Any one of them decides; each is
// compared without regard to case, as the beginning of what the BMC says.
type signs struct {
	vendor  []string // ServiceRoot.Vendor
	product []string // ServiceRoot.Product
	oem     []string // a key of ServiceRoot.Oem, whole
	server  []string // the Server header
	manager []string // Manager.Model
	path    []string // of the Manager that provides the service
}

type known struct {
	profile Profile
	signs   signs
}

// Generic is the profile of a BMC of which nothing is known.
func Generic() Profile {
	return Profile{
		Name: "generic", MaxReads: 4, Streams: 1,
		Reconnect: 5 * time.Second, Silence: 2 * time.Hour, PowerRetry: 3 * time.Second,
		Quirks: []Quirk{
			{"MaxReads", "four at once for one BMC is what others came to", "dsx-ai-factory/infra-controller#4751"},
			{"Silence", "services send no heartbeat unless they are asked to", "DMTF DSP0266, server-sent events"},
		},
	}
}

// Profiles are all makes that are told apart, the generic one last.
func Profiles() []Profile {
	var all []Profile
	for _, k := range makes() {
		all = append(all, k.profile)
	}
	return append(all, Generic())
}

// makes is the table of profiles. What is not said is as in Generic.
func makes() []known {
	of := func(change func(*Profile), s signs) known {
		p := Generic()
		change(&p)
		return known{p, s}
	}
	return []known{
		of(openBMC, signs{manager: []string{"OpenBmc"}, path: []string{"/redfish/v1/Managers/bmc"}}),
		of(iDRAC, signs{vendor: []string{"Dell"}, product: []string{"Integrated Dell Remote Access"}, oem: []string{"Dell"}, server: []string{"iDRAC"}}),
		of(iLO, signs{vendor: []string{"HPE", "HP ", "Hewlett"}, oem: []string{"Hpe", "Hp"}, server: []string{"HPE-iLO", "HP-iLO"}, manager: []string{"iLO"}}),
		of(megaRAC, signs{vendor: []string{"AMI", "American Megatrends", "GIGABYTE", "Giga Computing", "Gigabyte"}, product: []string{"AMI Redfish"}, oem: []string{"Ami"}, server: []string{"AMI MegaRAC"}}),
		of(xcc, signs{vendor: []string{"Lenovo"}, oem: []string{"Lenovo"}, server: []string{"XCC"}, manager: []string{"Lenovo XClarity", "XClarity"}}),
		of(supermicro, signs{vendor: []string{"Supermicro", "Super Micro"}, oem: []string{"Supermicro", "Smc"}}),
	}
}

func openBMC(p *Profile) {
	p.Name, p.MaxReads, p.Streams, p.Reconnect = "OpenBMC", 8, 10, time.Second
	p.UpdateTarget, p.Holds = true, true
	p.Quirks = []Quirk{
		{"UpdateTarget", "an upload without a target is answered with 500", "bmcweb 7debb8928f, recorded"},
		{"MaxReads", "requests wait for each other only in its one thread; reads over D-Bus overlap", "bmcweb 7debb8928f, measured"},
		{"IfMatch", "a PATCH without it is taken; W/ and * are not understood", "bmcweb 7debb8928f, recorded"},
		{"Holds", "a PATCH of the boot source is answered when D-Bus has taken it, an error of D-Bus is its answer", "bmcweb 7debb8928f, recorded"},
		{"Streams", "ten event streams, twenty subscriptions; beyond that 503, earlier 403", "bmcweb source; openbmc/bmcweb#150"},
	}
}

func iDRAC(p *Profile) {
	p.Name, p.MaxSessions, p.MaxReads = "iDRAC", 8, 4
	p.Streams, p.Reconnect, p.Silence = 2, 20*time.Second, time.Hour+5*time.Minute
	p.PowerRetry, p.WriteWait = 30*time.Second, 2*time.Minute
	p.Quirks = []Quirk{
		{"MaxSessions", "beyond that 503 with RAC0218; tools that leak sessions fill them", "stmcginnis/gofish#75, bb-Ricardo/check_redfish#89"},
		{"IfMatch", "not atomic under concurrent writes; spurious 412, fine when asked again", "dell/iDRAC-Redfish-Scripting#354"},
		{"Streams", "two at once, any beyond is not honoured", "Dell, Telemetry streaming white paper 418"},
		{"Reconnect", "wait 20 to 30 seconds before a new stream", "Dell, iDRAC9 Redfish API Guide 4.20, Server-Sent Events"},
		{"Silence", "it ends a stream that was silent for an hour", "Dell, Redfish eventing FAQ, 2.3.2"},
		{"PowerRetry", "409 to On shortly after Off", "design notes on iDRAC10"},
		{"WriteWait", "some BIOS writes take over 60 seconds", "design notes"},
	}
}

func iLO(p *Profile) {
	p.Name, p.MaxReads, p.PowerRetry = "iLO", 2, 10*time.Second
	p.Quirks = []Quirk{
		{"BootMode", "BootSourceOverrideMode is not writable: it refuses the change that repeats it", "ansible-collections/community.general#3509"},
		{"PowerRetry", "changes are refused while the host is in POST", "design notes"},
	}
}

func megaRAC(p *Profile) {
	p.Name, p.MaxReads, p.IfMatch = "MegaRAC", 2, IfMatchAlways
	p.Quirks = []Quirk{
		{"IfMatch", "428 Ami.1.0.PreconditionHeaderMissing without it; others drop the write in silence", "stmcginnis/gofish#171, xcat2/confluent#274"},
	}
}

func xcc(p *Profile) {
	p.Name, p.MaxReads, p.IfMatch = "XCC", 4, IfMatchAlways
	p.Quirks = []Quirk{
		{"IfMatch", "428 without it; 412 where the tag changed between the read and the write, so that it is read again", "ansible/ansible#56150, ansible-collections/community.general#11261"},
	}
}

func supermicro(p *Profile) {
	p.Name, p.MaxReads, p.BootMode, p.IfMatch = "Supermicro", 2, true, IfMatchQuoted
	p.Quirks = []Quirk{
		{"BootMode", "a boot override without the mode sets the mode to its default, by design", "DMTF/Redfishtool#106"},
		{"IfMatch", "some services quote the tag of the header twice and then refuse it", "ansible-collections/community.general#3268"},
	}
}

// Evidence is what a BMC has said of itself.
type Evidence struct {
	Vendor, Product string   // of the ServiceRoot
	Oem             []string // the keys of its Oem
	Server          string   // the header
	Manager         string   // Manager.Model
	Provider        Link     // ServiceRoot.Links.ManagerProvidingService
}

// Detect is the profile that fits the evidence, else the generic one.
func Detect(e Evidence) Profile {
	begins := func(text string, with []string) bool {
		return slices.ContainsFunc(with, func(w string) bool {
			return len(text) >= len(w) && strings.EqualFold(text[:len(w)], w)
		})
	}
	for _, k := range makes() {
		oem := slices.ContainsFunc(e.Oem, func(key string) bool {
			return slices.ContainsFunc(k.signs.oem, func(o string) bool { return strings.EqualFold(o, key) })
		})
		if oem || begins(e.Vendor, k.signs.vendor) || begins(e.Product, k.signs.product) ||
			begins(e.Server, k.signs.server) || begins(e.Manager, k.signs.manager) ||
			begins(string(e.Provider), k.signs.path) {
			return k.profile
		}
	}
	return Generic()
}

// Profile is how the BMC is treated, as far as it is known by now.
func (c *Client) Profile() Profile {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.profile
}

// SawManager refines the profile by the model of the BMC itself, which only a
// read after the login tells. It is asked for no request of its own.
func (c *Client) SawManager(model string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if model != "" && model != c.evidence.Manager {
		c.evidence.Manager = short(model)
		c.profile = Detect(c.evidence)
	}
}

// sawRoot begins the profile with what the ServiceRoot tells. The caller holds mu.
func (c *Client) sawRoot(r *Root, server string) {
	c.evidence = Evidence{
		Vendor: string(r.Vendor), Product: string(r.Product), Oem: r.Oem,
		Server: short(server), Manager: c.evidence.Manager, Provider: r.Links.Provider,
	}
	c.profile = Detect(c.evidence)
}

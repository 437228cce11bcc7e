package bmcsim

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/auth"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/certs"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/clock"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/events"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/firmware"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/logs"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/power"
)

// State is what a BMC keeps in its flash and what its server is doing. It
// holds no password, only salted hashes; like on a real OpenBMC, session
// tokens and the TLS key are in clear text, so its file is for its owner only.
type State struct {
	Hostname    string
	ServiceUUID string
	SystemUUID  string
	ManagerUUID string
	Certificate string // PEM, with what is sent with it
	Key         string // PEM
	Requests    certs.Keys
	Trust       certs.Store
	Mapping     certs.Mapping
	Strict      bool // clients without a good certificate are not served at all

	auth.Users

	AssetTag  string
	Indicator bool
	Restore   string // PowerRestorePolicy
	Health    string // of the system
	Boot      power.Override
	LastReset time.Time
	Power     power.Plan
	Pins      map[string]float64

	HostNIC NIC
	BMCNIC  NIC
	NTP     ntp
	IPMI    bool // over the network
	SSH     bool
	Clock   clock.Offset // how far the BMC's clock is off
	Service string       // ServiceIdentification
	Log     logs.Log

	firmware.Flash
	logs.Archive

	Events        eventSettings
	Subscriptions []events.Subscription
}

type ntp struct {
	Enabled bool
	Servers []string
}

// freshState is a BMC that leaves the factory.
func freshState(cfg Config) (*State, error) {
	users, err := auth.Factory(cfg.Password, cfg.MustChange, !cfg.NoTLSLogin, cfg.Rand)
	if err != nil {
		return nil, err
	}
	s := &State{
		Hostname:  cfg.Hostname,
		Users:     users,
		Mapping:   certs.CommonName,
		SSH:       true,
		Restore:   "AlwaysOff",
		Health:    "OK",
		Boot:      power.NoOverride(),
		LastReset: cfg.Now(),
		Power:     power.Plan{power.Steady(cfg.PowerOn, cfg.Now())},
		Pins:      map[string]float64{},
		Flash:     firmware.Factory(),
		Events:    eventSettings{Enabled: true, Attempts: 3, Interval: 30},
		BMCNIC:    NIC{Address: "192.0.2.10", Netmask: "255.255.255.0", Gateway: "192.0.2.1"},
		NTP:       ntp{Enabled: true, Servers: []string{"192.0.2.123"}},
	}
	if cfg.Epoch {
		s.NTP.Enabled = false
	}
	if cfg.HostNIC != nil {
		s.HostNIC = *cfg.HostNIC
	}
	for _, id := range []*string{&s.ServiceUUID, &s.SystemUUID, &s.ManagerUUID} {
		if *id, err = newUUID(cfg.Rand); err != nil {
			return nil, err
		}
	}
	return s, s.renewCertificate(cfg)
}

// renewCertificate makes a new key and a certificate for the host name.
func (s *State) renewCertificate(cfg Config) error {
	cert, key, err := certs.SelfSigned(s.Hostname, cfg.Now(), cfg.Rand)
	s.Certificate, s.Key = string(cert), string(key)
	return err
}

// keyPair is what is served: the certificate, and the CA that the truststore
// has for it.
func (s *State) keyPair() (*tls.Certificate, error) {
	return certs.Pair{Chain: s.Certificate, Key: s.Key}.Served(s.Trust)
}

// loadState is nil without an error if there is no such file yet.
func loadState(path string) (*State, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "read the simulator's state", err)
	}
	s := &State{}
	if err := json.Unmarshal(text, s); err != nil {
		return nil, fault.New(fault.BadInput, "read the simulator's state", fmt.Sprintf("%s: %v", path, err)).
			WithHint("remove the file to start with a fresh BMC")
	}
	if len(s.Power) == 0 || s.Accounts == nil {
		return nil, fault.New(fault.BadInput, "read the simulator's state", path+": not a BMC's state").
			WithHint("remove the file to start with a fresh BMC")
	}
	if s.Events.Attempts == 0 { // written before there were events
		s.Events = eventSettings{Enabled: true, Attempts: 3, Interval: 30}
	}
	if len(s.Firmware) == 0 {
		s.Flash = firmware.Factory()
	}
	if s.Mapping == "" {
		s.Mapping = certs.CommonName
	}
	if s.Pins == nil {
		s.Pins = map[string]float64{}
	}
	return s, nil
}

// save replaces the file at path in one step. An empty path is no file.
func (s *State) save(path string) error {
	if path == "" {
		return nil
	}
	text, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return fault.Wrap(fault.Internal, "encode the simulator's state", err)
	}
	return fault.Wrap(fault.Internal, "save the simulator's state", replaceFile(path, text))
}

// replaceFile writes beside path and renames, so that a reader or a crash
// sees the old content or the new one. CreateTemp makes the file 0600.
func replaceFile(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".state-*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

func newUUID(random io.Reader) (string, error) {
	var u [16]byte
	if _, err := io.ReadFull(random, u[:]); err != nil {
		return "", fmt.Errorf("make a UUID: %w", err)
	}
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:]), nil
}

func hex8(s string) string { return fmt.Sprintf("%08X", uint32(hash64(s))) }

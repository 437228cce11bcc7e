package dev

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// sizeFile remembers how large the fleet is.
const sizeFile = "size.yaml"

const (
	mostCoordinators = 5
	mostRacks        = 9
)

// size is how many of everything there are.
type size struct {
	Coordinators int `yaml:"coordinators"`
	Racks        int `yaml:"racks"`
	// Standby: each rack has a second agent.
	Standby bool `yaml:"standby,omitempty"`
}

func (s size) check() error {
	switch {
	case s.Coordinators < 0 || s.Coordinators > mostCoordinators:
		return fault.New(fault.BadInput, "", fmt.Sprintf("--coordinators %d is not 1 to %d", s.Coordinators, mostCoordinators)).
			WithHint("3 go on without any one of them")
	case s.Racks < 0 || s.Racks > mostRacks:
		return fault.New(fault.BadInput, "", fmt.Sprintf("--racks %d is not 1 to %d", s.Racks, mostRacks))
	}
	return nil
}

// settle is the size that the directory has, or is given now. Racks may be added;
// who decides together is in the coordinators' log.
func (l layout) settle(flags size) (size, error) {
	var kept size
	text, err := os.ReadFile(l.path(sizeFile))
	if err == nil {
		err = yaml.UnmarshalWithOptions(text, &kept, yaml.Strict())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return kept, fault.Wrap(fault.Unavailable, "read "+sizeFile, err)
	}
	if kept.Coordinators == 0 && exists(l.path(partCoordinator)) {
		kept.Coordinators = 1
	}
	if kept.Coordinators != 0 && flags.Coordinators != 0 && flags.Coordinators != kept.Coordinators {
		return kept, fault.New(fault.Conflict, "start the fleet", fmt.Sprintf("this one began with --coordinators %d", kept.Coordinators)).
			WithHint("begin another one with --state DIR")
	}
	s := size{Coordinators: max(1, flags.Coordinators, kept.Coordinators), Racks: max(1, flags.Racks, kept.Racks), Standby: flags.Standby || kept.Standby}
	if err = l.reserve(s); err != nil || s == kept {
		return s, err
	}
	if text, err = yaml.Marshal(s); err != nil {
		return s, fault.Wrap(fault.Internal, "write "+sizeFile, err)
	}
	return s, writeFile(l.path(sizeFile), text)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// reserve chooses where the coordinators, and the agents of a rack, reach each other:
// each must know of the others before they run.
func (l layout) reserve(s size) error {
	var files []string
	for n := 1; n <= s.Coordinators && s.Coordinators > 1; n++ {
		files = append(files, peerFile(n))
	}
	for n := 1; n <= s.Racks && s.Standby; n++ {
		files = append(files, pairFile(partAgent, n), pairFile(partStandby, n))
	}
	for n := 1; n <= s.Racks && s.Racks > 1; n++ {
		files = append(files, siteFile(partAgent, n))
		if s.Standby {
			files = append(files, siteFile(partStandby, n))
		}
	}
	for _, file := range files {
		if exists(l.path(file)) {
			continue
		}
		addr, err := freeAddress()
		if err == nil {
			err = os.MkdirAll(filepath.Dir(l.path(file)), 0o700)
		}
		if err != nil {
			return fault.Wrap(fault.Unavailable, "find a free port", err)
		}
		if err = writeFile(l.path(file), []byte(addr+"\n")); err != nil {
			return err
		}
	}
	return nil
}

// freeAddress is one on the loopback interface whose port is free, and the next one,
// which agents of a site use too.
func freeAddress() (string, error) {
	for tries := 0; ; tries++ {
		first, err := (&net.ListenConfig{}).ListenPacket(context.Background(), "udp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		at := first.LocalAddr().(*net.UDPAddr).AddrPort()
		second, err := (&net.ListenConfig{}).ListenPacket(context.Background(), "udp", netip.AddrPortFrom(at.Addr(), at.Port()+1).String())
		if err == nil {
			return at.String(), errors.Join(first.Close(), second.Close())
		}
		if err = errors.Join(err, first.Close()); tries > 16 {
			return "", err
		}
	}
}

// numbered is the name of the nth of a kind.
func numbered(kind string, n int) string {
	if n == 1 {
		return kind
	}
	return fmt.Sprintf("%s-%d", kind, n)
}

// numberOf is the kind and the number in a name.
func numberOf(part string) (kind string, n int, ok bool) {
	kind, number, several := strings.Cut(part, "-")
	if !several {
		return kind, 1, true
	}
	n, err := strconv.Atoi(number)
	return kind, n, err == nil && n > 1 && kind != partSim
}

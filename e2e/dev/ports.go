package dev

import (
	"os"
	"strings"

	"github.com/chiba-mesh/chiba/coordinator"
)

// A dev fleet is found here, by agents over UDP and by people over TCP, unless
// another one is.
const defaultAddress = "127.0.0.1:7443"

// These remember where agents dial and where the API is, so that an agent that
// runs on its own finds the coordinator, and a restart changes neither.
func meshFile(n int) string { return numbered(partCoordinator, n) + "/mesh.addr" }
func apiFile(n int) string  { return numbered(partCoordinator, n) + "/api.addr" }
func peerFile(n int) string { return numbered(partCoordinator, n) + "/peer.addr" }

// pairFile remembers where an agent listens for the other one of its rack.
func pairFile(part string, n int) string { return numbered(part, n) + "/pair.addr" }

// siteFile remembers where an agent listens for the others of its site. While no
// coordinator is reached nobody would tell them of another address.
func siteFile(part string, n int) string { return numbered(part, n) + "/site.addr" }

// listen makes a coordinator at the addresses of the last time, else at the
// default ones, else wherever there is room.
func (f *running) listen(n int, config coordinator.Config) (*coordinator.Coordinator, error) {
	config.MeshAddr, config.APIAddr = f.remembered(n, meshFile(n)), f.remembered(n, apiFile(n))
	c, err := coordinator.New(config)
	if err == nil {
		return c, nil
	}
	config.MeshAddr, config.APIAddr = "127.0.0.1:0", "127.0.0.1:0"
	if c, again := coordinator.New(config); again == nil {
		return c, nil
	}
	return nil, err
}

func (f *running) remembered(n int, file string) string {
	if text, err := os.ReadFile(f.path(file)); err == nil {
		return strings.TrimSpace(string(text))
	}
	if n > 1 {
		return "127.0.0.1:0"
	}
	return defaultAddress
}

// known are the addresses in the files of that kind that are there.
func (f *running) known(file func(n int) string) []string {
	var all []string
	for n := 1; n <= f.size.Coordinators; n++ {
		if text, err := os.ReadFile(f.path(file(n))); err == nil {
			all = append(all, strings.TrimSpace(string(text)))
		}
	}
	return all
}

// remember keeps the addresses and tells the client commands.
func (f *running) remember(n int, c *coordinator.Coordinator) error {
	for file, addr := range map[string]string{meshFile(n): c.MeshAddr(), apiFile(n): c.APIAddr()} {
		if err := writeFile(f.path(file), []byte(addr+"\n")); err != nil {
			return err
		}
	}
	return f.writeContext(f.known(apiFile))
}

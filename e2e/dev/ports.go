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
const (
	meshFile = "coordinator/mesh.addr"
	apiFile  = "coordinator/api.addr"
)

// listen makes a coordinator at the addresses of the last time, else at the
// default ones, else wherever there is room.
func (f *running) listen(config coordinator.Config) (*coordinator.Coordinator, error) {
	config.MeshAddr, config.APIAddr = f.remembered(meshFile), f.remembered(apiFile)
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

func (f *running) remembered(file string) string {
	if text, err := os.ReadFile(f.path(file)); err == nil {
		return strings.TrimSpace(string(text))
	}
	return defaultAddress
}

// remember keeps the addresses and tells the client commands.
func (f *running) remember(c *coordinator.Coordinator) error {
	for file, addr := range map[string]string{meshFile: c.MeshAddr(), apiFile: c.APIAddr()} {
		if err := writeFile(f.path(file), []byte(addr+"\n")); err != nil {
			return err
		}
	}
	return f.writeContext(c.APIAddr())
}

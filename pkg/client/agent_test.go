package client_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
)

// The agent is found where people keep its state, and its CA beside the socket.
func TestFindingTheAgent(t *testing.T) {
	dir := t.TempDir()
	agent := filepath.Join(dir, "agent")
	if err := os.MkdirAll(agent, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv(client.StateVar, "")
	if _, err := client.Locate(dir, client.AnyAgent); !fault.Is(err, fault.NotFound) || fault.HintOf(err) == "" {
		t.Errorf("where there is none: %v", err)
	}
	if err := os.WriteFile(filepath.Join(agent, "agent.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for state, socket := range map[string]string{
		dir:   client.AnyAgent,
		agent: client.AnyAgent,
		"":    agent,
		"x":   filepath.Join(agent, "agent.sock"),
	} {
		c, err := client.Locate(state, socket)
		if err != nil || !c.OnRack() || c.CA != filepath.Join(agent, "ca.pem") {
			t.Errorf("--state %q --agent=%s: %+v, %v", state, socket, c, err)
		}
	}
	t.Setenv(client.StateVar, dir)
	if c, err := client.Locate("", client.AnyAgent); err != nil || !c.OnRack() {
		t.Errorf("by the environment: %v", err)
	}
	if _, err := client.Locate(dir, ""); !fault.Is(err, fault.NotFound) {
		t.Errorf("a coordinator is not meant by a socket: %v", err)
	}
}

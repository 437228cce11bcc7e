package client

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"connectrpc.com/connect"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/unixsock"
	"github.com/chiba-mesh/chiba/pkg/wire/pb/pbconnect"
)

// AnyAgent stands for the socket of this machine's agent, wherever it is.
const AnyAgent = "default"

const (
	agentSocket = "agent.sock"
	agentDir    = "agent" // of chiba dev's state directory
	agentState  = "/var/lib/chiba/agent"
	caFile      = "ca.pem" // beside the socket, as the agent has it
)

// Locate is the context to use: that of Find and Load, or if agent is not empty one
// that leads to the agent of this machine, at that socket, or in that directory.
// What an author needs comes from the context of Find then, if there is one, else
// from the agent's own directory.
func Locate(state, agent string) (Context, error) {
	if agent == "" {
		path, err := Find(state)
		if err != nil {
			return Context{}, err
		}
		return Load(path)
	}
	socket, err := findSocket(state, agent)
	if err != nil {
		return Context{}, err
	}
	c := Context{CA: filepath.Join(filepath.Dir(socket), caFile), file: "the context"}
	if path, err := Find(state); err == nil {
		if c, err = Load(path); err != nil {
			return Context{}, err
		}
	}
	c.socket = socket
	return c, nil
}

// OnRack reports whether c leads to an agent, and to no coordinator.
func (c Context) OnRack() bool { return c.socket != "" }

// findSocket is the socket of an agent.
func findSocket(state, agent string) (string, error) {
	if agent != AnyAgent {
		if at, err := os.Stat(agent); err == nil && at.IsDir() {
			return filepath.Join(agent, agentSocket), nil
		}
		return agent, nil
	}
	if state == "" {
		state = os.Getenv(StateVar)
	}
	dirs := []string{state, filepath.Join(state, agentDir)}
	if state == "" {
		dirs = []string{agentState}
		if path, err := Find(""); err == nil {
			dirs = []string{filepath.Join(filepath.Dir(path), agentDir), agentState}
		}
	}
	for _, dir := range dirs {
		if path := filepath.Join(dir, agentSocket); exists(path) {
			return path, nil
		}
	}
	return "", fault.New(fault.NotFound, "find the agent", "no "+agentSocket+" in "+strings.Join(dirs, " or ")).
		WithHint("is the agent running on this machine, and are you root or its user? name its socket with --agent=SOCKET")
}

// openAgent is a client of the agent that c leads to. It is asked what a coordinator is
// asked, for its rack alone; what is signed for it is for that rack.
func openAgent(c Context, author Author) *Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return unixsock.Dial(ctx, c.socket) },
	}
	rpc := pbconnect.NewFleetClient(&http.Client{Transport: transport}, "http://agent", connect.WithReadMaxBytes(maxMessage))
	return &Client{context: c, author: author, transport: transport, ways: []way{{c.socket, rpc}}}
}

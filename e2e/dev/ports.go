package dev

import (
	"context"
	"net"
	"os"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// A dev fleet is found at these unless they are taken.
const (
	defaultMesh = "127.0.0.1:7443" // UDP
	defaultAPI  = "127.0.0.1:7443" // TCP
)

// meshFile remembers where agents dial, so that an agent that runs on its own
// finds the coordinator, and both find each other again after a restart.
const (
	meshFile = "coordinator/mesh.addr"
	apiFile  = "coordinator/api.addr"
)

// address is the one of the last time, else the default, else any other: the
// first that is free.
func (l layout) address(ctx context.Context, network, file, fallback string) (string, error) {
	candidates := []string{fallback, "127.0.0.1:0"}
	if text, err := os.ReadFile(l.path(file)); err == nil {
		candidates = append([]string{strings.TrimSpace(string(text))}, candidates...)
	}
	var last error
	for _, candidate := range candidates {
		addr, err := try(ctx, network, candidate)
		if err == nil {
			return addr, nil
		}
		last = err
	}
	return "", fault.Wrap(fault.Unavailable, "find a free port", last)
}

// try listens for a moment to see which address it would be.
func try(ctx context.Context, network, addr string) (string, error) {
	var listen net.ListenConfig
	if network == "udp" {
		socket, err := listen.ListenPacket(ctx, network, addr)
		if err != nil {
			return "", err
		}
		defer socket.Close()
		return socket.LocalAddr().String(), nil
	}
	listener, err := listen.Listen(ctx, network, addr)
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}

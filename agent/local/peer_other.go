//go:build !linux

package local

import (
	"net"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// userOf lets nobody in where the kernel is not asked who they are.
func userOf(net.Conn) (User, error) {
	return User{}, fault.New(fault.Unsupported, "ask who connects", "the agent's socket is for Linux alone")
}

package sim

import (
	"context"
	"net"
	"path/filepath"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/unixsock"
)

// socketName is the control socket in the state directory.
const socketName = "sim.sock"

// listenControl takes the control socket of dir, and refuses if another
// simulator answers there. A socket that a crash left behind is replaced.
func listenControl(ctx context.Context, dir string) (net.Listener, error) {
	path := filepath.Join(dir, socketName)
	if unixsock.Answers(ctx, path) {
		return nil, fault.New(fault.Conflict, "start the simulator", "one is running already in "+dir).
			WithHint("stop it, or give this one another directory with --state DIR")
	}
	return unixsock.Listen(ctx, path)
}

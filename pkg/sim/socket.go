package sim

import (
	"context"
	"net"
	"os"
	"path/filepath"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// socketName is the control socket in the state directory.
const socketName = "sim.sock"

// maxSocketPath is the longest path a unix socket can have on every system
// this runs on (104 bytes on macOS, 108 on Linux, with the final zero).
const maxSocketPath = 103

// shortDir is dir, or a short symbolic link to it if the socket's path would
// be too long. The cleanup removes the link.
func shortDir(dir string) (short string, cleanup func(), err error) {
	if len(filepath.Join(dir, socketName)) <= maxSocketPath {
		return dir, func() {}, nil
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", nil, fault.Wrap(fault.BadInput, "find the state directory", err)
	}
	tmp, err := os.MkdirTemp("", "chiba-")
	if err != nil {
		return "", nil, fault.Wrap(fault.Internal, "shorten the path of the socket", err)
	}
	cleanup = func() { _ = os.RemoveAll(tmp) }
	short = filepath.Join(tmp, "d")
	if err := os.Symlink(abs, short); err != nil {
		cleanup()
		return "", nil, fault.Wrap(fault.Internal, "shorten the path of the socket", err)
	}
	return short, cleanup, nil
}

// listenControl takes the control socket of dir, and refuses if another
// simulator answers there. A socket that a crash left behind is replaced.
func listenControl(ctx context.Context, dir string) (net.Listener, func(), error) {
	short, cleanup, err := shortDir(dir)
	if err != nil {
		return nil, nil, err
	}
	path := filepath.Join(short, socketName)
	if conn, refused := (&net.Dialer{}).DialContext(ctx, "unix", path); refused == nil {
		_ = conn.Close()
		cleanup()
		return nil, nil, fault.New(fault.Conflict, "start the simulator", "one is running already in "+dir).
			WithHint("stop it, or give this one another directory with --state DIR")
	}
	_ = os.Remove(path) // nobody listens there
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		cleanup()
		return nil, nil, fault.Wrap(fault.Unavailable, "listen on "+filepath.Join(dir, socketName), err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		cleanup()
		return nil, nil, fault.Wrap(fault.Internal, "protect the control socket", err)
	}
	return l, cleanup, nil
}

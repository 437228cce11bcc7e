// Package unixsock listens on unix sockets and dials them, wherever they are: a path
// that is too long for the kernel is reached by a short link to its directory.
package unixsock

import (
	"context"
	"net"
	"os"
	"path/filepath"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

const (
	fresh = ".new" // a socket is called before it is ready
	// maxPath is the longest path that a unix socket can have on every system this
	// runs on (104 bytes on macOS, 108 on Linux, with the final zero).
	maxPath = 103 - len(fresh)
)

// Path is a path that the kernel takes for the socket at path. The cleanup removes
// what it needs.
func Path(path string) (short string, cleanup func(), err error) {
	if len(path) <= maxPath {
		return path, func() {}, nil
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return "", nil, fault.Wrap(fault.BadInput, "find the socket", err)
	}
	tmp, err := os.MkdirTemp("", "chiba-")
	if err != nil {
		return "", nil, fault.Wrap(fault.Internal, "shorten the path of the socket", err)
	}
	cleanup = func() { _ = os.RemoveAll(tmp) }
	link := filepath.Join(tmp, "d")
	if err := os.Symlink(dir, link); err != nil {
		cleanup()
		return "", nil, fault.Wrap(fault.Internal, "shorten the path of the socket", err)
	}
	return filepath.Join(link, filepath.Base(path)), cleanup, nil
}

// Answers reports whether somebody listens at path.
func Answers(ctx context.Context, path string) bool {
	conn, err := Dial(ctx, path)
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

// Listen listens at path, for the owner of this process alone (0600). What a crash
// left there is replaced; whoever must not share it asks Answers before. Closing the
// listener removes the socket.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	op := "listen on " + path
	short, cleanup, err := Path(path)
	if err != nil {
		return nil, err
	}
	early := short + fresh // nobody connects before the mode is right
	_ = os.Remove(early)
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", early)
	if err != nil {
		cleanup()
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	if unix, ok := l.(*net.UnixListener); ok {
		unix.SetUnlinkOnClose(false) // it would remove the name that it began with
	}
	own := &listener{Listener: l, path: short, cleanup: cleanup}
	if err = os.Chmod(early, 0o600); err == nil {
		err = os.Rename(early, short)
	}
	if err != nil {
		_ = own.Close()
		_ = os.Remove(early)
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	return own, nil
}

// Dial connects to the socket at path.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	short, cleanup, err := Path(path)
	if err != nil {
		return nil, err
	}
	defer cleanup()
	return (&net.Dialer{}).DialContext(ctx, "unix", short)
}

type listener struct {
	net.Listener
	path    string
	cleanup func()
}

func (l *listener) Close() error {
	_ = os.Remove(l.path)
	l.cleanup()
	return l.Listener.Close()
}

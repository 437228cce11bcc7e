package l2

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Socket is the wire to a network card of QEMU's (-netdev dgram): a datagram
// socket at path local, to which QEMU sends, and QEMU's own at path remote, which
// need not be there yet.
func Socket(local, remote string) (Wire, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: local})
	if err != nil {
		return nil, fmt.Errorf("make a port for QEMU: %w", err)
	}
	return &socket{UnixConn: conn, to: &net.UnixAddr{Net: "unixgram", Name: remote}}, nil
}

type socket struct {
	*net.UnixConn
	to *net.UnixAddr
}

func (s *socket) Write(frame []byte) (int, error) { return s.WriteToUnix(frame, s.to) }

// TAP makes the network interface name in the network namespace of the calling
// thread and is the wire to it. It needs CAP_NET_ADMIN there. The interface goes
// with the wire.
func TAP(name string) (Wire, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("make the interface %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

package local

import (
	"errors"
	"fmt"
	"net"
	"os/user"
	"strconv"
	"syscall"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// userOf is who is at the other end of a unix socket, as the kernel noted it when
// they connected (SO_PEERCRED, unix(7)).
func userOf(c net.Conn) (User, error) {
	const op = "ask who connects"
	unix, is := c.(*net.UnixConn)
	if !is {
		return User{}, fault.New(fault.Internal, op, fmt.Sprintf("a %T says nothing of it", c))
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return User{}, fault.Wrap(fault.Internal, op, err)
	}
	var cred *syscall.Ucred
	var asked error
	err = raw.Control(func(fd uintptr) {
		cred, asked = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err != nil || asked != nil {
		return User{}, fault.Wrap(fault.Internal, op, errors.Join(err, asked))
	}
	u := User{UID: cred.Uid}
	if known, err := user.LookupId(strconv.FormatUint(uint64(cred.Uid), 10)); err == nil {
		u.Name = known.Username
	}
	return u, nil
}

package wan

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/chiba-mesh/chiba/e2e/qemu/l2"
)

// uplink is the interface of a site towards the WAN.
const uplink = "wan0"

// site is a place with a network of its own and one cable to everybody else.
type site struct {
	t     *testing.T
	name  string
	addrs []netip.Prefix
	wire  l2.Wire
	cable *l2.Port
	do    chan func() // what the thread in its network shall do
	ended chan struct{}
}

// newSite makes a site. Its thread is never given back: a network belongs to a
// thread, and one that has left ours must not run anything else.
func newSite(t *testing.T, name string, addrs ...string) *site {
	t.Helper()
	s := &site{t: t, name: name, do: make(chan func()), ended: make(chan struct{})}
	for _, a := range addrs {
		s.addrs = append(s.addrs, netip.MustParsePrefix(a))
	}
	made := make(chan error, 1)
	go func() {
		defer close(s.ended)
		runtime.LockOSThread()
		err := s.make()
		made <- err
		if err != nil {
			return
		}
		for f := range s.do {
			f()
		}
	}()
	if err := <-made; err != nil {
		t.Fatalf("site %s: %v", name, err)
	}
	t.Cleanup(func() {
		close(s.do)
		<-s.ended
	})
	return s
}

func (s *site) make() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network: %w", err)
	}
	var err error
	if s.wire, err = l2.TAP(uplink); err != nil {
		return err
	}
	return errors.Join(up("lo"), up(uplink, s.addrs...))
}

// up gives the interface addresses, which are good at once, and switches it on.
func up(name string, addrs ...netip.Prefix) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, a := range addrs {
		parsed, err := netlink.ParseAddr(a.String())
		if err != nil {
			return err
		}
		if a.Addr().Is6() {
			parsed.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, parsed); err != nil {
			return fmt.Errorf("give %s to %s: %w", a, name, err)
		}
	}
	return netlink.LinkSetUp(link)
}

// in does something in the site's network: what it starts lives there.
func (s *site) in(f func() error) error {
	done := make(chan error, 1)
	s.do <- func() { done <- f() }
	return <-done
}

// run runs a command in the site's network to its end.
func (s *site) run(cmd *exec.Cmd) error {
	if err := s.in(cmd.Start); err != nil {
		return err
	}
	return cmd.Wait()
}

// far is the cable of a site of which a round trip to another one takes 50 ms, with
// 1 % of loss on each way: half of it is on either cable.
func far() l2.Cable {
	return l2.Cable{Delay: 12500 * time.Microsecond, Jitter: 2 * time.Millisecond, Loss: 0.005}
}

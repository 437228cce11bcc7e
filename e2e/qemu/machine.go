//go:build linux

package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/netip"
)

// machine is one BMC in QEMU.
type machine struct {
	name   string       // of the host, and what mDNS announces
	ip     netip.Prefix // of its network card, besides a link-local IPv6 address
	number int          // from 1; makes its hardware address
	card   string       // the socket of its network card
	port   string       // that of the switch, to which the card sends
	seed   []byte       // randomness for the guest's kernel

	// image is a whole flash image, of a real OpenBMC for the board romulus; with one
	// the rest is not used.
	image                      string
	kernel, deviceTree, initrd string
	flash                      string // the eMMC, written to
}

// seedSize is what fills the pool of a kernel.
const seedSize = 32

// newMachine is guest number n, from 1, without what it boots from.
func newMachine(n int) machine {
	seed := make([]byte, seedSize)
	_, _ = rand.Read(seed) // never fails
	name := fmt.Sprintf("bmc-%d", n)
	return machine{
		name: name, number: n, seed: seed,
		ip:   netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, 0, byte(10 + n)}), 24),
		card: name + ".card", port: name + ".port", flash: name + ".flash",
	}
}

// arguments are QEMU's. Everything is emulated: a /dev/kvm that is there may still
// boot nothing, and does not help with another processor.
func (m machine) arguments() []string {
	common := []string{
		"-display", "none", "-monitor", "none", "-serial", "stdio", "-nodefaults", "-name", m.name,
		"-accel", "tcg,tb-size=32", // 290 MB for each machine instead of 650
		"-netdev", fmt.Sprintf("dgram,id=n0,local.type=unix,local.path=%s,remote.type=unix,remote.path=%s", m.card, m.port),
		"-net", fmt.Sprintf("nic,netdev=n0,macaddr=52:54:00:00:00:%02x", m.number),
	}
	if m.image != "" {
		return append(common, "-M", "romulus-bmc", "-drive", "file="+m.image+",if=mtd,format=raw")
	}
	return append(common,
		"-M", "ast2600-evb", "-m", "256", // with less the kernel does not boot
		"-kernel", m.kernel, "-dtb", m.deviceTree, "-initrd", m.initrd,
		"-drive", "file="+m.flash+",if=sd,index=2,format=raw", // slots 0 and 1 are SD cards
		"-append", fmt.Sprintf("console=ttyS4,115200n8 quiet rdinit=/init bmc.name=%s bmc.ip=%s bmc.seed=%s",
			m.name, m.ip, hex.EncodeToString(m.seed)))
}

// ready is what it says on its console when it has booted.
func (m machine) ready() string {
	if m.image != "" {
		return " login:"
	}
	return " READY "
}

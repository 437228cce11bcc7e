package neighbour

import (
	"encoding/binary"
	"net"
	"net/netip"
	"syscall"
)

const (
	headerLen = 12   // struct ndmsg
	dst       = 1    // NDA_DST
	lladdr    = 2    // NDA_LLADDR
	gone      = 0x61 // NUD_INCOMPLETE, NUD_FAILED, NUD_NOARP: nobody is there
)

// neighbours reads the kernel's tables (ARP and neighbour discovery) over netlink;
// anybody may.
func neighbours() ([]entry, error) {
	data, err := syscall.NetlinkRIB(syscall.RTM_GETNEIGH, syscall.AF_UNSPEC)
	if err != nil {
		return nil, err
	}
	messages, err := syscall.ParseNetlinkMessage(data)
	if err != nil {
		return nil, err
	}
	var all []entry
	for _, m := range messages {
		if m.Header.Type == syscall.RTM_NEWNEIGH {
			if e, ok := parse(m.Data); ok {
				all = append(all, e)
			}
		}
	}
	return all, nil
}

// parse reads struct ndmsg and the address among its attributes.
func parse(data []byte) (entry, bool) {
	if len(data) < headerLen {
		return entry{}, false
	}
	state := binary.NativeEndian.Uint16(data[8:])
	e := entry{index: int(binary.NativeEndian.Uint32(data[4:]))}
	for data = data[headerLen:]; len(data) >= 4; {
		size, kind := int(binary.NativeEndian.Uint16(data)), binary.NativeEndian.Uint16(data[2:])
		if size < 4 || size > len(data) {
			break
		}
		switch kind {
		case dst:
			e.addr, _ = netip.AddrFromSlice(data[4:size])
		case lladdr:
			e.mac = net.HardwareAddr(data[4:size]).String()
		}
		data = data[min((size+3)&^3, len(data)):]
	}
	return e, e.addr.IsValid() && state&gone == 0
}

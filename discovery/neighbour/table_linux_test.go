package neighbour

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// entryBytes is an entry as the kernel writes it: struct ndmsg, a link-layer
// address, the address.
func entryBytes(index uint32, state uint16, addr netip.Addr) []byte {
	b := make([]byte, headerLen)
	binary.NativeEndian.PutUint32(b[4:], index)
	binary.NativeEndian.PutUint16(b[8:], state)
	add := func(kind uint16, data []byte) {
		b = binary.NativeEndian.AppendUint16(b, uint16(4+len(data)))
		b = binary.NativeEndian.AppendUint16(b, kind)
		b = append(b, data...)
		b = append(b, make([]byte, -len(data)&3)...)
	}
	add(2, []byte{2, 0, 0, 0, 0, 1})
	add(dst, addr.AsSlice())
	return b
}

func TestParse(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.1.0.9"), netip.MustParseAddr("fe80::9")
	const reachable, stale, failed, incomplete, noarp = 0x02, 0x04, 0x20, 0x01, 0x40
	for _, c := range []struct {
		state uint16
		addr  netip.Addr
		there bool
	}{{reachable, v4, true}, {stale, v6, true}, {failed, v4, false}, {incomplete, v6, false}, {noarp, v6, false}} {
		e, ok := parse(entryBytes(7, c.state, c.addr))
		if ok != c.there || ok && e != (entry{7, c.addr, "02:00:00:00:00:01"}) {
			t.Errorf("state %#x of %v: %v, %v", c.state, c.addr, e, ok)
		}
	}
	whole := entryBytes(7, reachable, v6)
	for n := range whole {
		if e, ok := parse(whole[:n]); ok {
			t.Errorf("%d bytes of %d are %v", n, len(whole), e)
		}
	}
}

func TestNeighboursCanBeRead(t *testing.T) {
	all, err := neighbours()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if !e.addr.IsValid() || e.index <= 0 {
			t.Errorf("%+v", e)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(entryBytes(7, 2, netip.MustParseAddr("fe80::9")))
	f.Fuzz(func(t *testing.T, data []byte) {
		if e, ok := parse(data); ok && !e.addr.IsValid() {
			t.Errorf("%+v", e)
		}
	})
}

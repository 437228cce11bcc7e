//go:build linux

package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestArguments(t *testing.T) {
	m := newMachine(2)
	m.kernel, m.deviceTree, m.initrd, m.seed = "kernel", "board.dtb", "initrd", []byte{0, 0xff}
	const common = `-display none -monitor none -serial stdio -nodefaults -name bmc-2 -accel tcg,tb-size=32
-netdev dgram,id=n0,local.type=unix,local.path=bmc-2.card,remote.type=unix,remote.path=bmc-2.port
-net nic,netdev=n0,macaddr=52:54:00:00:00:02`
	for _, c := range []struct{ name, image, want, ready string }{
		{"a guest of ours", "", common + ` -M ast2600-evb -m 256 -kernel kernel -dtb board.dtb -initrd initrd
-drive file=bmc-2.flash,if=sd,index=2,format=raw
-append console=ttyS4,115200n8 quiet rdinit=/init bmc.name=bmc-2 bmc.ip=10.77.0.12/24 bmc.seed=00ff`, " READY "},
		{"an image", "bmc-2.image", common + " -M romulus-bmc -drive file=bmc-2.image,if=mtd,format=raw", " login:"},
	} {
		m.image = c.image
		if diff := cmp.Diff(strings.Fields(c.want), strings.Fields(strings.Join(m.arguments(), " "))); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
		if m.ready() != c.ready {
			t.Errorf("%s is ready when it says %q", c.name, m.ready())
		}
	}
	if one, two := newMachine(1), newMachine(1); cmp.Equal(one.seed, two.seed) {
		t.Error("two machines have one seed")
	}
}

func TestCacheDir(t *testing.T) {
	for _, c := range []struct{ env, want string }{
		{"CHIBA_CACHE=/c XDG_CACHE_HOME=/x HOME=/h", "/c/qemu"},
		{"XDG_CACHE_HOME=/x HOME=/h", "/x/chiba/qemu"},
		{"HOME=/h", "/h/.cache/chiba/qemu"},
	} {
		env := map[string]string{}
		for pair := range strings.FieldsSeq(c.env) {
			key, value, _ := strings.Cut(pair, "=")
			env[key] = value
		}
		if got := cacheDir(func(key string) string { return env[key] }); got != c.want {
			t.Errorf("%s: %s, want %s", c.env, got, c.want)
		}
	}
}

// A guest counts as found only by both its addresses, over mDNS, with a key.
func TestAmong(t *testing.T) {
	g := &guest{machine: newMachine(1)}
	whole := candidate{Addresses: []string{"10.77.0.11:443", "[fe80::1%rack0]:443"}, Found: []string{"mdns", "neighbours"}, Pin: "sha256/x"}
	change := func(change func(*candidate)) candidate {
		c := whole
		change(&c)
		return c
	}
	for _, c := range []struct {
		name string
		c    candidate
		want int
	}{
		{"whole", whole, 0},
		{"another's address", change(func(c *candidate) { c.Addresses = []string{"10.77.0.110:443", "[fe80::1%rack0]:443"} }), -1},
		{"no link-local address", change(func(c *candidate) { c.Addresses = c.Addresses[:1] }), -1},
		{"not over mDNS", change(func(c *candidate) { c.Found = []string{"neighbours"} }), -1},
		{"no key", change(func(c *candidate) { c.Pin = "" }), -1},
	} {
		if got := g.among([]candidate{c.c}); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	stock := &guest{machine: machine{image: "file"}}
	if stock.among([]candidate{change(func(c *candidate) { c.Found, c.Addresses = nil, c.Addresses[1:] })}) != 0 {
		t.Error("a real image is not found by its link-local address alone")
	}
}

func TestParseStat(t *testing.T) {
	const rest = " S 17 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 1 2"
	for _, c := range []struct {
		text string
		want stat
		bad  bool
	}{
		{"42 (qemu)" + rest, stat{42, 17, "qemu", "S", "98765"}, false},
		{"42 (a) b (c))" + rest, stat{42, 17, "a) b (c)", "S", "98765"}, false},
		{"", stat{}, true},
		{"42 qemu" + rest, stat{}, true},
		{"x (qemu)" + rest, stat{}, true},
		{"42 (qemu) S 17", stat{}, true},
	} {
		got, err := parseStat(c.text)
		if got != c.want || (err != nil) != c.bad {
			t.Errorf("%q: %+v, %v", c.text, got, err)
		}
	}
}

func TestBelow(t *testing.T) {
	parents := map[int]int{1: 0, 10: 1, 11: 10, 12: 11, 20: 1, 21: 20}
	for root, want := range map[int][]int{10: {10, 11, 12}, 21: {21}, 1: {1, 10, 11, 12, 20, 21}, 99: nil} {
		if diff := cmp.Diff(want, below(parents, root)); diff != "" {
			t.Errorf("below %d: %s", root, diff)
		}
	}
}

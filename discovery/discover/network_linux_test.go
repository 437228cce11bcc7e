package discover

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/discovery/mdns"
	"github.com/chiba-mesh/chiba/discovery/ssdp"
	"github.com/chiba-mesh/chiba/pkg/cli"
)

// discover runs the command and returns what it printed.
func discover(tb testing.TB, args ...string) (bmcs []shownBMC, notes string) {
	tb.Helper()
	root := cli.NewRoot()
	root.AddCommand(Command())
	var out, errs bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&errs)
	root.SetArgs(append([]string{"discover", "-o", "json"}, args...))
	if err := root.ExecuteContext(tb.Context()); err != nil {
		tb.Fatalf("%v\n%s", err, errs.String())
	}
	if err := json.Unmarshal(out.Bytes(), &bmcs); err != nil {
		tb.Fatalf("%v in %s", err, out.String())
	}
	return bmcs, errs.String()
}

// expectRack checks that all simulated BMCs were found, each once with its own
// key, by the finder.
func expectRack(t *testing.T, bmcs []shownBMC, notes, finder string) {
	t.Helper()
	keys := map[string]bool{}
	for _, b := range bmcs {
		if b.Pin == "" || !slices.Contains(b.Found, finder) {
			continue
		}
		keys[b.Pin] = true
		if b.Product == "" && b.UUID == "" {
			t.Errorf("nothing is known of %v: %v", b.Addresses, b.Odd)
		}
	}
	if len(keys) != bmcCount {
		t.Errorf("%d of %d BMCs were found by %s: %+v\n%s", len(keys), bmcCount, finder, bmcs, notes)
	}
}

func TestRackOverMDNS(t *testing.T) {
	if !inside(t) {
		return
	}
	rack(t, "bmcs")
	bmcs, notes := discover(t, "--interface", "va", "--no-ssdp", "--no-neighbours", "--why")
	expectRack(t, bmcs, notes, mdns.Name)
	for _, b := range bmcs {
		if len(b.Addresses) != 2 {
			t.Errorf("%v is not one BMC with an address of each family", b.Addresses)
		}
	}
}

// All interfaces, and no address but the link-local ones of IPv6: the same
// address space is on both links, and each address has its zone.
func TestRackWithLinkLocalAddressesOnly(t *testing.T) {
	if !inside(t) {
		return
	}
	rack(t, "linklocal")
	bmcs, notes := discover(t, "--no-ssdp", "--no-neighbours")
	expectRack(t, bmcs, notes, mdns.Name)
	for _, b := range bmcs {
		if !strings.HasSuffix(b.Addresses[0], "%va]:443") {
			t.Errorf("address %v", b.Addresses)
		}
	}
}

func TestRackOverSSDP(t *testing.T) {
	if !inside(t) {
		return
	}
	rack(t, "ssdp")
	bmcs, notes := discover(t, "--interface", "va", "--no-mdns", "--no-neighbours")
	expectRack(t, bmcs, notes, ssdp.Name)
	if strings.Contains(fmt.Sprint(bmcs), "198.51.100.9") || !strings.Contains(notes, "named an address that is not on va") {
		t.Errorf("an address elsewhere was not dropped: %+v\n%s", bmcs, notes)
	}
	for _, b := range bmcs {
		if len(b.Odd) != 1 || !strings.Contains(b.Odd[0], "announces the UUID 00000000") {
			t.Errorf("%v announces another UUID than it has, and that is not odd: %v", b.Addresses, b.Odd)
		}
	}
}

// BMCs that announce nothing answer a ping of all nodes: here one of them, for
// the rack is one host with eight addresses.
func TestMuteRackByItsNeighbours(t *testing.T) {
	if !inside(t) {
		return
	}
	rack(t, "mute")
	bmcs, notes := discover(t, "--interface", "va", "--no-mdns", "--no-ssdp", "--why")
	if len(bmcs) == 0 {
		t.Errorf("nobody was found\n%s", notes)
	}
	t.Logf("%d of %d found\n%s", len(bmcs), bmcCount, notes)
	bmcs, notes = discover(t, "--no-mdns", "--no-ssdp", "--no-neighbours", "--cidr", "10.9.0.96/27", "--for", "3s")
	expectRack(t, bmcs, notes, "static")
}

func TestThreat03LiesAreDropped(t *testing.T) {
	for how, note := range map[string]string{
		"router": "hop limit below 255", "source": "off the link va", "target": "not on va", "interface": "on another interface",
	} {
		t.Run(how, func(t *testing.T) {
			if !inside(t) {
				return
			}
			rack(t, "liar "+how)
			listenElsewhere(t)
			bmcs, notes := discover(t, "--interface", "va", "--no-ssdp", "--no-neighbours", "--why")
			expectRack(t, bmcs, notes, mdns.Name)
			if strings.Contains(fmt.Sprint(bmcs), "liar") || !strings.Contains(notes, note) {
				t.Errorf("want no liar and the note %q: %+v\n%s", note, bmcs, notes)
			}
		})
	}
}

// listenElsewhere joins the group on the other interface, as any other program
// may: Linux then gives what comes there to us too.
func listenElsewhere(t *testing.T) {
	t.Helper()
	vc, err := net.InterfaceByName("vc")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenMulticastUDP("udp4", vc, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
}

// A flood while it looks: what is honest is found all the same, in bounded
// memory, and the command ends in time.
func TestThreat04Flood(t *testing.T) {
	if !inside(t) {
		return
	}
	r := rack(t, "flood")
	before := residentMB(t)
	r.say("flood")
	begun := time.Now()
	bmcs, _ := discover(t, "--interface", "va", "--no-ssdp", "--no-neighbours", "--for", "4s")
	took := time.Since(begun)
	good := map[string]bool{}
	for _, b := range bmcs {
		if b.Pin != "" {
			good[b.Pin] = true
		}
	}
	t.Logf("%d rows, %d answer, %v, %d MiB more; the flood of %d records lasted %s", len(bmcs), len(good), took, residentMB(t)-before, 4*floodCount, r.hear("flooded"))
	if len(good) != bmcCount || len(bmcs) > discovery.MaxAddresses || took > 8*time.Second || residentMB(t)-before > 256 {
		t.Error("out of bounds")
	}
}

// browse looks until all responders were heard, and returns how long that took
// and how many were.
func browse(tb testing.TB, most time.Duration) (took time.Duration, heard int) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), most)
	defer cancel()
	out, ended := make(chan discovery.Sighting, 4096), make(chan error, 1)
	begun := time.Now()
	go func() {
		ended <- mdns.Finder{Interfaces: []string{"va"}, Log: slog.New(slog.DiscardHandler)}.Run(ctx, out)
	}()
	seen := map[string]bool{}
	for len(seen) < responderCount && ctx.Err() == nil {
		select {
		case s := <-out:
			seen[s.Address] = true
		case <-ctx.Done():
		}
	}
	took = time.Since(begun)
	cancel()
	if err := <-ended; !errors.Is(err, ctx.Err()) {
		tb.Errorf("ended with %v", err)
	}
	return took, len(seen)
}

// The floor is 120 ms: the last of 400 responders waits about so long before it
// answers (RFC 6762, section 6).
func BenchmarkResponders(b *testing.B) {
	if !inside(b) {
		return
	}
	benchmarkResponders(b, "0")
}

func BenchmarkRespondersLossy(b *testing.B) {
	if !inside(b) {
		return
	}
	benchmarkResponders(b, "2")
}

func benchmarkResponders(b *testing.B, loss string) {
	b.Helper()
	rack(b, "responders "+loss)
	var all []time.Duration
	missed := 0
	for b.Loop() {
		<-time.After(1100 * time.Millisecond) // they don't multicast again within a second
		took, heard := browse(b, 3*time.Second)
		all = append(all, took)
		missed += responderCount - heard
	}
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Milliseconds()), "ms-p50")
	b.ReportMetric(float64(all[len(all)-1].Milliseconds()), "ms-worst")
	b.ReportMetric(float64(missed), "missed")
	b.ReportMetric(0, "ns/op")
}

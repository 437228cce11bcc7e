package ssdp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/discovery/link"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// say makes a message of lines; it is the text of DSP0266 where it can be.
func say(lines ...string) []byte { return []byte(strings.Join(lines, "\r\n") + "\r\n\r\n") }

const (
	ok = "HTTP/1.1 200 OK"
	id = "00000000-0000-0000-0000-00000000000a"
)

func TestParse(t *testing.T) {
	host := netip.MustParseAddr("10.1.0.9")
	for name, c := range map[string]struct {
		data []byte
		want message
		no   bool
	}{
		"as DSP0266 says": {
			data: say(ok, "CACHE-CONTROL:max-age=1800", "ST:"+target, "USN:uuid:"+id+"::"+target, "AL:https://10.1.0.9/redfish/v1/", "EXT:"),
			want: message{addr: host, port: 443, uuid: id},
		},
		"minor version":            {data: say(ok, "ST: "+target+":0", "AL: https://10.1.0.9:8443/redfish/v1/"), want: message{addr: host, port: 8443}},
		"as RackHD says":           {data: say(ok, "st: "+target+".0", "location: https://10.1.0.9/redfish/v1"), want: message{addr: host, port: 443}},
		"both, AL counts":          {data: say(ok, "ST:"+target, "LOCATION:https://10.1.0.1/", "AL:https://10.1.0.9/"), want: message{addr: host, port: 443}},
		"host name":                {data: say(ok, "ST:"+target, "AL:https://bmc.example:444/"), want: message{port: 444}},
		"IPv6":                     {data: say(ok, "ST:"+target, "AL:<https://[fe80::9%25eth7]/>"), want: message{addr: netip.MustParseAddr("fe80::9"), port: 443}},
		"line feeds alone":         {data: []byte("HTTP/1.0 200 Fine\nST:" + target + "\nAL:https://10.1.0.9/\n\n"), want: message{addr: host, port: 443}},
		"notice":                   {data: say("NOTIFY * HTTP/1.1", "NT:"+target, "NTS:ssdp:alive", "AL:https://10.1.0.9/"), want: message{addr: host, port: 443}},
		"notice of an end":         {data: say("NOTIFY * HTTP/1.1", "NT:"+target, "NTS:ssdp:byebye", "AL:https://10.1.0.9/"), no: true},
		"a search":                 {data: say("M-SEARCH * HTTP/1.1", "ST:"+target, "AL:https://10.1.0.9/"), no: true},
		"an error":                 {data: say("HTTP/1.1 404 No", "ST:"+target, "AL:https://10.1.0.9/"), no: true},
		"something else":           {data: say(ok, "ST:upnp:rootdevice", "AL:https://10.1.0.9/"), no: true},
		"a longer number":          {data: say(ok, "ST:"+target+"0", "AL:https://10.1.0.9/"), no: true},
		"plain HTTP":               {data: say(ok, "ST:"+target, "AL:http://10.1.0.9/"), no: true},
		"a user in the URL":        {data: say(ok, "ST:"+target, "AL:https://root:x@10.1.0.9/"), no: true},
		"port 0":                   {data: say(ok, "ST:"+target, "AL:https://10.1.0.9:0/"), no: true},
		"no address":               {data: say(ok, "ST:"+target), no: true},
		"after the end of headers": {data: say(ok, "ST:"+target, "", "AL:https://10.1.0.9/"), no: true},
		"too long":                 {data: say(ok, "ST:"+target, "AL:https://10.1.0.9/", strings.Repeat("x", maxMessage)), no: true},
		"nothing":                  {no: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, is := parse(c.data)
			if is == c.no || is && got != c.want {
				t.Errorf("got %v, %v", got, is)
			}
		})
	}
}

var eth = link.Link{Interface: net.Interface{Index: 2, Name: "eth1"}, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}}

func TestSighting(t *testing.T) {
	for al, want := range map[string]discovery.Sighting{
		"https://10.1.0.9/":      {Address: "10.1.0.9:443", Found: Name, Service: target, Link: "eth1", Source: "10.1.0.5"},
		"https://bmc.example/":   {Address: "10.1.0.5:443", Found: Name, Service: target, Link: "eth1", Source: "10.1.0.5"},
		"https://[fe80::1]:444/": {Address: "[fe80::1%eth1]:444", Found: Name, Service: target, Link: "eth1", Source: "10.1.0.5"},
		"https://8.8.8.8/":       {Found: Name, Note: "10.1.0.5 named an address that is not on eth1, it was dropped"},
	} {
		got, _ := sighting(link.Packet{Data: say(ok, "ST:"+target, "AL:"+al), Link: eth, From: "10.1.0.5"})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", al, diff)
		}
	}
}

func TestRate(t *testing.T) {
	var r rates
	now, taken := time.Unix(0, 0), 0
	for range 3 * maxRate {
		if r.allow(now, "10.1.0.66") {
			taken++
		}
	}
	if taken != maxRate || !r.allow(now, "10.1.0.9") || !r.allow(now.Add(time.Second), "10.1.0.66") {
		t.Errorf("%d taken", taken)
	}
}

// A real search on the loopback, answered by a service of this test.
func TestSearchOnTheLoopback(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Skip("there is no interface lo here")
	}
	service, err := net.ListenMulticastUDP("udp4", lo, &net.UDPAddr{IP: net.IPv4(239, 255, 255, 250), Port: 1900})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		buf := make([]byte, 2048)
		for {
			n, from, err := service.ReadFromUDP(buf)
			if err != nil {
				return
			}
			if strings.Contains(string(buf[:n]), "ST: "+target+"\r\n") {
				_, _ = service.WriteToUDP(say(ok, "ST:"+target, "USN:uuid:"+id, "AL:https://127.0.0.1:8443/redfish/v1/"), from)
			}
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	out, ended := make(chan discovery.Sighting), make(chan error, 1)
	go func() { ended <- Finder{Interfaces: []string{"lo"}}.Run(ctx, out) }()
	for found := false; !found; {
		select {
		case s := <-out:
			found = s.Address == "127.0.0.1:8443" && s.UUID == id
		case err := <-ended:
			t.Fatalf("ended with %v", err)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	_ = service.Close()
	<-served
}

func TestMissingInterface(t *testing.T) {
	if err := (Finder{Interfaces: []string{"no-such-interface"}}).Run(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "no-such-interface") {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(say(ok, "ST:"+target, "USN:uuid:"+id+"::"+target, "AL:https://10.1.0.9/redfish/v1/"))
	f.Add(say("NOTIFY * HTTP/1.1", "NT:"+target+":0", "NTS:ssdp:alive", "LOCATION:https://[fe80::9%25eth1]:444/"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, is := parse(data)
		if is && (m.port == 0 || m.addr.Zone() != "" || m.uuid != "" && len(m.uuid) != len(id)) {
			t.Errorf("%+v", m)
		}
		s, is := sighting(link.Packet{Data: data, Link: eth, From: "10.1.0.5"})
		if is && s.Note == "" {
			at, err := netip.ParseAddrPort(s.Address)
			if err != nil {
				t.Errorf("%s: %v", s.Address, err)
			} else if _, on := eth.Reach(at.Addr()); !on {
				t.Errorf("%s is not on the link", s.Address)
			}
		}
	})
}

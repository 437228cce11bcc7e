package enroll_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/ca"
	"github.com/chiba-mesh/chiba/trust/enroll"
)

// people are an operator, an agent and a mesh of their own.
func people(tb testing.TB, site string) (operator, agent trust.Credentials) {
	tb.Helper()
	dir := tb.TempDir()
	authority, err := ca.Open(filepath.Join(dir, "ca"), site)
	if err != nil {
		tb.Fatal(err)
	}
	get := func(id trust.Identity) trust.Credentials {
		at := filepath.Join(dir, id.Name)
		if err := authority.Ensure(at, id); err != nil {
			tb.Fatal(err)
		}
		c, err := trust.Load(at)
		if err != nil {
			tb.Fatal(err)
		}
		return c
	}
	return get(trust.Identity{Role: trust.Operator, Name: "ada"}), get(trust.Identity{Role: trust.Agent, Name: "eve", Domain: trust.Domain{Rack: "r9"}})
}

func bundleOf(pins []string) enroll.Bundle {
	return enroll.Bundle{
		Site: "osl1", Rack: "r17", Name: "agent-r17", Coordinators: []string{"10.0.0.5:7443"}, Pins: pins,
		Token: "t1", Secret: bytes.Repeat([]byte{7}, enroll.SecretSize), NotAfter: time.Now().Add(time.Hour).UTC().Truncate(time.Second),
		MinVersion: 1, ScriptRoot: json.RawMessage(`{"threshold":1}`),
	}
}

func TestBundle(t *testing.T) {
	ada, _ := people(t, "osl1")
	want := bundleOf(ada.Pins())
	text, err := want.Encode(ada)
	if err != nil {
		t.Fatal(err)
	}
	got, by, err := enroll.DecodeBundle(text, time.Now())
	if diff := cmp.Diff(want, got); diff != "" || err != nil || by.Name != "ada" {
		t.Errorf("read by %v: %v\n%s", by, err, diff)
	}
	if _, _, err := enroll.DecodeBundle(text, time.Now().Add(2*time.Hour)); !fault.Is(err, fault.Untrusted) {
		t.Errorf("after its end: %v", err)
	}
}

// Who has the install medium in hand can't lead the machine elsewhere.
func TestBundleThatWasChanged(t *testing.T) {
	ada, agent := people(t, "osl1")
	mallory, _ := people(t, "osl1")
	good := bundleOf(ada.Pins())
	text, err := good.Encode(ada)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(from, to string) []byte {
		var s map[string]any
		if json.Unmarshal(text, &s) != nil {
			t.Fatal("it is no JSON")
		}
		encoded, _ := s["claim"].(string)
		claim, decodeErr := base64.StdEncoding.DecodeString(encoded)
		if decodeErr != nil || !bytes.Contains(claim, []byte(from)) {
			t.Fatalf("%s is not in %s", from, claim)
		}
		s["claim"] = bytes.ReplaceAll(claim, []byte(from), []byte(to))
		out, _ := json.Marshal(s) // of strings
		return out
	}
	byAgent, err := good.Encode(agent)
	if err != nil {
		t.Fatal(err)
	}
	byMallory, err := good.Encode(mallory)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"another address":                     edit("10.0.0.5", "10.6.6.6"),
		"another pin":                         edit(ada.Pins()[0], mallory.Pins()[0]),
		"another rack":                        edit("r17", "r18"),
		"a later end":                         edit(good.NotAfter.Format("2006"), "2099"),
		"signed by an agent":                  byAgent,
		"signed by another mesh's operator":   byMallory,
		"cut off":                             text[:len(text)-9],
		"nothing":                             nil,
		"something else":                      []byte(`{"claim":"e30=","chain":[]}`),
		"larger than a bundle is":             append(bytes.Repeat([]byte(" "), 70<<10), text...),
		"with a field that nobody knows here": edit(`"rack"`, `"RACKS"`),
	} {
		if _, _, err := enroll.DecodeBundle(data, time.Now()); err == nil {
			t.Errorf("%s: it was believed", name)
		}
	}
}

func TestBundlesThatAreRefused(t *testing.T) {
	ada, _ := people(t, "osl1")
	for name, change := range map[string]func(*enroll.Bundle){
		"one pin alone":           func(b *enroll.Bundle) { b.Pins = b.Pins[:1] },
		"no pin":                  func(b *enroll.Bundle) { b.Pins = nil },
		"a pin that is none":      func(b *enroll.Bundle) { b.Pins[0] = "spki/" + strings.Repeat("ab", 32) },
		"no coordinator":          func(b *enroll.Bundle) { b.Coordinators = nil },
		"an address without port": func(b *enroll.Bundle) { b.Coordinators = []string{"10.0.0.5"} },
		"an address with a line":  func(b *enroll.Bundle) { b.Coordinators = []string{"a\nname: \"x\":1"} },
		"a name with a line":      func(b *enroll.Bundle) { b.Name = "a\nrack: r1" },
		"a short secret":          func(b *enroll.Bundle) { b.Secret = b.Secret[:8] },
		"a later version":         func(b *enroll.Bundle) { b.MinVersion = 2 },
		"no rack":                 func(b *enroll.Bundle) { b.Rack = "" },
		"no site":                 func(b *enroll.Bundle) { b.Site = "" },
	} {
		b := bundleOf(ada.Pins())
		change(&b)
		if _, err := b.Encode(ada); !fault.Is(err, fault.BadInput) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Every part of what was said changes the proof.
func TestProof(t *testing.T) {
	secret := bytes.Repeat([]byte{1}, enroll.SecretSize)
	public, err := enroll.Public(secret)
	if err != nil {
		t.Fatal(err)
	}
	said := enroll.Transcript{Begin: []byte("b"), Version: 1, Nonce: []byte("n"), Ticket: []byte("t"), Exporter: []byte("e"), SPKI: []byte("s")}
	proof, err := said.Prove(secret)
	if err != nil || said.Check(public, proof) != nil {
		t.Fatal(err, said.Check(public, proof))
	}
	for name, other := range map[string]enroll.Transcript{
		"begin":    {Begin: []byte("B"), Version: 1, Nonce: []byte("n"), Ticket: []byte("t"), Exporter: []byte("e"), SPKI: []byte("s")},
		"version":  {Begin: []byte("b"), Version: 2, Nonce: []byte("n"), Ticket: []byte("t"), Exporter: []byte("e"), SPKI: []byte("s")},
		"nonce":    {Begin: []byte("b"), Version: 1, Nonce: []byte("N"), Ticket: []byte("t"), Exporter: []byte("e"), SPKI: []byte("s")},
		"ticket":   {Begin: []byte("b"), Version: 1, Nonce: []byte("n"), Ticket: []byte("T"), Exporter: []byte("e"), SPKI: []byte("s")},
		"exporter": {Begin: []byte("b"), Version: 1, Nonce: []byte("n"), Ticket: []byte("t"), Exporter: []byte("E"), SPKI: []byte("s")},
		"key":      {Begin: []byte("b"), Version: 1, Nonce: []byte("n"), Ticket: []byte("t"), Exporter: []byte("e"), SPKI: []byte("S")},
		"a border": {Begin: []byte("b"), Version: 1, Nonce: []byte("nt"), Ticket: nil, Exporter: []byte("e"), SPKI: []byte("s")},
	} {
		if err := other.Check(public, proof); !fault.Is(err, fault.Denied) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	// What the coordinators keep lets nobody in.
	if forged, err := said.Prove(public); err != nil || said.Check(public, forged) == nil {
		t.Error("the public half proves", err)
	}
	if said.Check(nil, proof) == nil {
		t.Error("no key at all believes")
	}
}

func TestTicket(t *testing.T) {
	tickets, err := enroll.NewTickets(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	now, spki := time.Now(), bytes.Repeat([]byte{2}, 32)
	what := &pb.EnrolTicket{Begin: []byte("b"), Nonce: bytes.Repeat([]byte{3}, enroll.NonceSize), Spki: spki, UntilUnixMs: now.Add(time.Minute).UnixMilli()}
	ticket, err := tickets.Seal(what)
	if err != nil {
		t.Fatal(err)
	}
	if got, openErr := tickets.Open(ticket, spki, now); openErr != nil || !proto.Equal(got, what) {
		t.Errorf("%v, %v", got, openErr)
	}
	others, err := enroll.NewTickets(bytes.Repeat([]byte{9}, 32))
	if err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func() (*pb.EnrolTicket, error){
		"of another site": func() (*pb.EnrolTicket, error) { return others.Open(ticket, spki, now) },
		"of another key":  func() (*pb.EnrolTicket, error) { return tickets.Open(ticket, bytes.Repeat([]byte{4}, 32), now) },
		"after its time":  func() (*pb.EnrolTicket, error) { return tickets.Open(ticket, spki, now.Add(2*time.Minute)) },
		"with one bit off": func() (*pb.EnrolTicket, error) {
			bad := bytes.Clone(ticket)
			bad[20] ^= 1
			return tickets.Open(bad, spki, now)
		},
		"cut off": func() (*pb.EnrolTicket, error) { return tickets.Open(ticket[:5], spki, now) },
	} {
		if _, err := open(); !fault.Is(err, fault.Denied) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCode(t *testing.T) {
	code, err := enroll.Code(bytes.Repeat([]byte{0, 1, 255, 19, 20}, 10))
	if err != nil || code != "BCZB-BCZB" {
		t.Errorf("%q, %v", code, err)
	}
	if _, err := enroll.Code(bytes.Repeat([]byte{255}, enroll.CodeBytes)); err == nil {
		t.Error("a code of nothing")
	}
	for typed, want := range map[string]string{
		"WDJB-MJHT": "WDJB-MJHT", "wdjbmjht": "WDJB-MJHT", "wdjb mjht": "WDJB-MJHT", "WDJB-MJH": "", "WDJB-MJHA": "", "": "", "WDJB-MJHTX": "", "agent/x": "",
	} {
		if got, err := enroll.ParseCode(typed); got != want || (err == nil) != (want != "") {
			t.Errorf("%q is read as %q, %v", typed, got, err)
		}
	}
}

func FuzzBundle(f *testing.F) {
	ada, _ := people(f, "osl1")
	text, err := bundleOf(ada.Pins()).Encode(ada)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"claim":"e30=","signature":"","chain":["AA=="]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, by, err := enroll.DecodeBundle(data, time.Now())
		if err == nil && (by.Role != trust.Operator || b.Site != by.Site || len(b.Pins) < 2) {
			t.Errorf("believed: %+v by %v", b, by)
		}
	})
}

func FuzzTicket(f *testing.F) {
	tickets, err := enroll.NewTickets(make([]byte, 32))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := tickets.Open(data, make([]byte, 32), time.Now()); err == nil {
			t.Error("it was opened")
		}
	})
}

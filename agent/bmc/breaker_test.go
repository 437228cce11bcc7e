package bmc

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish"
)

// The script of a breaker: "fail", "ok", "refused", "canceled" are calls and how
// they end, "+10s" lets time pass. The transcript tells which were let through.
func TestBreaker(t *testing.T) {
	ends := map[string]error{
		"fail": fault.New(fault.Timeout, "read", "no answer"), "ok": nil, "canceled": fault.New(fault.Canceled, "read", "stopped"),
		"refused": fault.Wrap(fault.Unavailable, "read", &redfish.StatusError{Status: 503}), "garbage": fault.New(fault.Garbage, "read", "no JSON"),
	}
	tests := []struct{ name, script, want string }{
		{"opens after three in a row", "fail fail fail ok", "fail fail fail -"},
		{"an answer starts the count anew", "fail fail ok fail fail ok", "fail fail ok fail fail ok"},
		{"a refusal is an answer", "fail fail refused garbage fail fail ok", "fail fail refused garbage fail fail ok"},
		{"a canceled call says nothing", "fail fail canceled fail ok", "fail fail canceled fail -"},
		{"a probe after the rest closes it", "fail fail fail +2s ok ok", "fail fail fail ok ok"},
		{"a failed probe doubles the rest", "fail fail fail +2s fail +2s ok +2s ok", "fail fail fail fail - ok"},
		{"the rest has a ceiling", "fail fail fail +1h fail +1h fail +1h fail +1h fail +1h fail +1h fail +60s ok", "fail fail fail fail fail fail fail fail fail ok"},
	}
	for _, test := range tests {
		now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
		b := newBreaker(2*time.Second, func() time.Time { return now }, func() float64 { return 0 })
		var got []string
		for word := range strings.FieldsSeq(test.script) {
			if wait, err := time.ParseDuration(strings.TrimPrefix(word, "+")); err == nil {
				now = now.Add(wait)
				continue
			}
			if b.begin() != nil {
				got = append(got, "-")
				continue
			}
			got = append(got, word)
			b.end(ends[word])
		}
		if diff := cmp.Diff(test.want, strings.Join(got, " ")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestHalfOpenBreakerProbesOnce(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	b := newBreaker(2*time.Second, func() time.Time { return now }, func() float64 { return 0.99 })
	for range tripAfter {
		if err := b.begin(); err != nil {
			t.Fatal(err)
		}
		b.end(fault.New(fault.Untrusted, "read", "another key").WithHint("look at the pin"))
	}
	err := b.refuses()
	if !fault.Is(err, fault.Untrusted) || fault.HintOf(err) != "look at the pin" || !strings.Contains(err.Error(), "another key") {
		t.Errorf("an open breaker says %v, hint %q", err, fault.HintOf(err))
	}
	now = now.Add(2 * time.Second)
	if b.begin() == nil {
		t.Error("the jitter was left out")
	}
	now = now.Add(time.Second)
	if b.begin() != nil || b.begin() == nil {
		t.Error("want one probe and no second one beside it")
	}
}

func TestWords(t *testing.T) {
	for in, want := range map[string]string{"PoweringOn": "powering-on", "On": "on", "UEFI": "uefi", "": "", "OSRunning": "osrunning"} {
		if got := kebab(in); got != want {
			t.Errorf("kebab(%s) = %s, want %s", in, got, want)
		}
	}
	for _, pair := range [][2]string{{"on", "On"}, {"GracefulShutdown", "graceful-shutdown"}, {"Solid State", "solid_state"}} {
		if !same(pair[0], pair[1]) {
			t.Errorf("%s and %s are one", pair[0], pair[1])
		}
	}
}

func TestSizes(t *testing.T) {
	const gb, gib = 1e9, 1 << 30
	tests := []struct {
		there, wanted float64
		same          bool
	}{
		{500_107_862_016, 500 * gb, true},
		{512 * gib, 512 * gb, true},
		{480 * gb, 512 * gb, true},
		{480 * gb, 500 * gb, true},
		{400 * gb, 500 * gb, false},
		{1 << 40, 1000 * gb, false},
		{0, 500 * gb, false},
	}
	for _, test := range tests {
		if got := sameSize(test.there, test.wanted); got != test.same {
			t.Errorf("sameSize(%g, %g) = %v", test.there, test.wanted, got)
		}
	}
}

func TestDriveNames(t *testing.T) {
	drives := []drive{
		{ID: "Disk.Bay.0", Protocol: "SAS"},
		{ID: "Disk.Bay.1", Status: redfish.Status{State: "Absent"}},
		{ID: "NVMe.0", Protocol: "NVMe"},
		{ID: "Disk.Bay.2", Name: "boot", Protocol: "SATA"},
	}
	for name, want := range map[string]string{
		"sda": "Disk.Bay.0", "sdb": "Disk.Bay.2", "sdc": "", "nvme0n1": "NVMe.0", "nvme1n1": "", "disk.bay.2": "Disk.Bay.2", "Boot": "Disk.Bay.2", "sd": "", "hda": "",
	} {
		if got, _ := named(drives, name); string(got.ID) != want {
			t.Errorf("%s is %q, want %q", name, got.ID, want)
		}
	}
}

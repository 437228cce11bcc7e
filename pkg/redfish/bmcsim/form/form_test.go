package form_test

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/form"
)

// TestCBOR holds the examples of RFC 8949, appendix A.
func TestCBOR(t *testing.T) {
	for json, want := range map[string]string{
		"0": "00", "23": "17", "24": "1818", "1000": "1903e8", "1000000": "1a000f4240", "1000000000000": "1b000000e8d4a51000",
		"-1": "20", "-100": "3863", "-1000": "3903e7", "1.1": "fb3ff199999999999a", "-4.1": "fbc010666666666666",
		"false": "f4", "true": "f5", "null": "f6", `""`: "60", `"IETF"`: "6449455446", `"ü"`: "62c3bc",
		"[]": "80", "[1,[2,3],[4,5]]": "8301820203820405", "{}": "a0", `{"b":[2,3],"a":1}`: "a26161016162820203",
	} {
		got, media := form.Encode("application/cbor", []byte(json))
		if hex.EncodeToString(got) != want || media != "application/cbor" {
			t.Errorf("%s is %x (%s), want %s", json, got, media, want)
		}
	}
}

func TestEncode(t *testing.T) {
	for _, test := range []struct{ accept, body, want, media string }{
		{"", `{}`, `{}`, form.JSON},
		{"*/*", `{}`, `{}`, form.JSON},
		{"text/html,*/*", `{"a":"<b>"}`, "{&#34;a&#34;:&#34;&lt;b&gt;&#34;}", "text/html;charset=UTF-8"},
		{"application/cbor", "no JSON", "no JSON", form.JSON},
	} {
		got, media := form.Encode(test.accept, []byte(test.body))
		if !strings.Contains(string(got), test.want) || media != test.media {
			t.Errorf("%q: %s (%s), want %s (%s)", test.accept, got, media, test.want, test.media)
		}
	}
}

// unframed reads what Zstd writes: blocks as they are, the last one marked.
func unframed(t *testing.T, b []byte) string {
	t.Helper()
	if len(b) < 9 || hex.EncodeToString(b[:5]) != "28b52ffda0" {
		t.Fatalf("no frame: %x", b)
	}
	var text strings.Builder
	for b = b[9:]; ; {
		head := int(b[0]) | int(b[1])<<8 | int(b[2])<<16
		n := head >> 3
		text.Write(b[3 : 3+n])
		if b = b[3+n:]; head&1 == 1 {
			break
		}
	}
	if len(b) > 0 {
		t.Errorf("%d bytes behind the last block", len(b))
	}
	return text.String()
}

func TestZstd(t *testing.T) {
	for _, n := range []int{0, 1, 128<<10 - 1, 128 << 10, 128<<10 + 1, 300 << 10} {
		text := strings.Repeat("x", n)
		if got := unframed(t, form.Zstd([]byte(text))); got != text {
			t.Errorf("%d bytes became %d", n, len(got))
		}
	}
}

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// rawFiles are the small cases that come with the code, with one word changed.
func rawFiles(t *testing.T, from, to string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for _, name := range []string{rawFile, websocketFile} {
		text, err := os.ReadFile(filepath.Join("testdata", "cases", name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = bytes.ReplaceAll(text, []byte(from), []byte(to))
	}
	return files
}

func TestRawConnections(t *testing.T) {
	for _, test := range []struct {
		name, from, to string
		explained      bool
		said           string
	}{
		{"as they were recorded", "", "", true, " 5 of   6"},
		{"another status", "401 Unauth", "403 Unauth", false, "status 401"},
		{"another header", "OData-Version", "OData-Vision", false, `"HTTP/1.0 GET" differs`},
		{"a connection that stays open", "closed by server", "timeout(open)", false, "closed is true"},
		{"a protocol", `"alpn": "h2"`, `"alpn": "http/1.1"`, false, `the protocol is`},
		{"a TLS version that works", "TLS1.2 max", "TLS1.3", true, " 5 of   6"}, // by its exception, not by its name
		{"an upgrade", "404 Not Found", "101 Switching", false, `"GET /redfish/v1" differs`},
		{"a known one that changes", "400 Bad", "200 Bad", false, `"no Host header" differs`},
	} {
		t.Run(test.name, func(t *testing.T) {
			files := rawFiles(t, test.from, test.to)
			if test.from == "" {
				files = rawFiles(t, "\x00", "")
			}
			var out bytes.Buffer
			explained, err := playRaw(t.Context(), &out, files)
			if err != nil || explained != test.explained || !strings.Contains(out.String(), test.said) {
				t.Errorf("explained %v, %v\n%s", explained, err, out.String())
			}
		})
	}
}

// TestPatience: what stops in its middle is cut, what is idle is not.
func TestPatience(t *testing.T) {
	var out bytes.Buffer
	files := rawFiles(t, "\x00", "")
	files[timeoutsFile] = []byte("{}")
	explained, err := playRaw(t.Context(), &out, files)
	if err != nil || !explained || !strings.Contains(out.String(), "half requests and idle handshakes are cut") {
		t.Errorf("explained %v, %v\n%s", explained, err, out.String())
	}
}

func TestBrokenRecordingsAreErrors(t *testing.T) {
	for _, name := range []string{rawFile, websocketFile} {
		if _, err := playRaw(t.Context(), &bytes.Buffer{}, map[string][]byte{name: []byte("{")}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestEveryFileBesideHasItsReason(t *testing.T) {
	for _, name := range []string{"G_tls_00_x.txt", "H_sse_raw.txt", "K_http2_get.txt", "README.md", "K_open_connections.json", "other.bin"} {
		if besides(name) == "" {
			t.Errorf("%s: no reason", name)
		}
	}
	if besides(rawFile)+besides(timeoutsFile) != "" {
		t.Error("what is replayed has a reason why not")
	}
}

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestOurOwnCases plays the small cases that come with the code.
func TestOurOwnCases(t *testing.T) {
	var out bytes.Buffer
	passed, err := run(t.Context(), &out, options{source: "testdata/cases"})
	if err != nil || !passed {
		t.Errorf("passed %v, %v\n%s", passed, err, out.String())
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if last := lines[len(lines)-1]; last != "conformance: 13 of 13" {
		t.Errorf("the last line is %q", last)
	}
}

// TestADifferenceFails plays them with one word changed, out of an archive.
func TestADifferenceFails(t *testing.T) {
	files, missing := filepath.Glob("testdata/cases/*.json")
	if missing != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", missing)
	}
	var packed bytes.Buffer
	zipped := gzip.NewWriter(&packed)
	archive := tar.NewWriter(zipped)
	for _, name := range files {
		text, unread := os.ReadFile(name)
		if unread != nil {
			t.Fatal(unread)
		}
		text = bytes.Replace(text, []byte("with the invalid parameter Jump"), []byte("with a parameter"), 1)
		h := &tar.Header{Name: "cases/" + filepath.Base(name), Mode: 0o600, Size: int64(len(text)), Typeflag: tar.TypeReg}
		if err := archive.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write(text); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(t.TempDir(), "cases.tar.gz")
	if err := os.WriteFile(source, packed.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	passed, err := run(t.Context(), &out, options{source: source})
	if err != nil || passed || !strings.HasSuffix(out.String(), "conformance: 12 of 13\n") {
		t.Errorf("passed %v, %v\n%s", passed, err, out.String())
	}
	if !strings.Contains(out.String(), "own_005_bad_reset differs") {
		t.Errorf("the report does not name the case:\n%s", out.String())
	}
}

func TestEveryKindOfDifferenceIsSeen(t *testing.T) {
	base := func() (recording, answer) {
		rec := recording{name: "x"}
		rec.Response.Status = http.StatusOK
		rec.Response.Headers = [][2]string{{"Allow", "GET"}, {"ETag", `"1A"`}, {"Location", "/redfish/v1/X/1"}}
		rec.Response.Body = map[string]any{"a": "text", "n": 1.0, "list": []any{map[string]any{"b": true}}}
		return rec, answer{
			status: http.StatusOK, header: http.Header{"Allow": {"GET"}, "Etag": {`"2B"`}, "Location": {"/redfish/v1/X/7"}},
			body: map[string]any{"a": "other", "n": 2.0, "list": []any{map[string]any{"b": false}, map[string]any{"b": true}}},
		}
	}
	if rec, got := base(); difference(rec, got) != "" {
		t.Fatalf("equal answers differ: %s", difference(rec, got))
	}
	for name, change := range map[string]func(*recording, *answer){
		"status":               func(_ *recording, a *answer) { a.status = http.StatusCreated },
		"a header is missing":  func(_ *recording, a *answer) { a.header.Del("Allow") },
		"a header is new":      func(_ *recording, a *answer) { a.header.Set("Server", "x") },
		"a weak tag":           func(_ *recording, a *answer) { a.header.Set("Etag", `W/"1A"`) },
		"another collection":   func(_ *recording, a *answer) { a.header.Set("Location", "/redfish/v1/Y/1") },
		"a property is gone":   func(_ *recording, a *answer) { delete(a.body.(map[string]any), "a") },
		"another type":         func(_ *recording, a *answer) { a.body.(map[string]any)["n"] = "1" },
		"a type within a list": func(_ *recording, a *answer) { a.body.(map[string]any)["list"] = []any{map[string]any{"b": 1.0}} },
		"an answer to an alert": func(rec *recording, _ *answer) {
			rec.Response.Exception = "SSLError(1, '[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED]')"
		},
		"no answer": func(_ *recording, a *answer) { a.err = http.ErrHandlerTimeout },
	} {
		rec, got := base()
		change(&rec, &got)
		if difference(rec, got) == "" {
			t.Errorf("%s: nothing differs", name)
		}
	}
}

func TestEveryExceptionHasAReason(t *testing.T) {
	for name, reason := range exceptions() {
		if len(reason) < 10 || !numbered.MatchString(name+".json") {
			t.Errorf("%s: %q", name, reason)
		}
	}
}

package recorded_test

import (
	"archive/tar"
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/redfish/recorded"
)

var record = []struct{ name, text string }{
	{"a.json", `{"Id":"1"}`},
	{"b.json", `{"request":{"path":"/x"},"response":{"status":200,"body":{"Id":"2"}}}`},
	{"c.json", `{"response":{"body":"<html>"}}`},
	{"d.json", `{"response":{"body":null,"body_text":"text"}}`},
	{"e.json", `{"Id":"1"}`},
	{"f.json", `{"response":{"body":""}}`},
	{"g.xml", `<Edmx/>`},
	{"h.json", strings.Repeat(" ", 65<<10)},
}

func TestBodies(t *testing.T) {
	dir := t.TempDir()
	for _, f := range record {
		if err := os.WriteFile(filepath.Join(dir, f.name), []byte(f.text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{`{"Id":"1"}`, `{"Id":"2"}`, "<html>", "text", "<Edmx/>"}
	for what, list := range map[string]string{
		"a folder": dir, "an archive": archive(t), "both": dir + string(os.PathListSeparator) + archive(t),
	} {
		t.Setenv(recorded.Where, list)
		var got []string
		for _, body := range recorded.Bodies(t) {
			got = append(got, string(body))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	t.Setenv(recorded.Where, "")
	if got := recorded.Bodies(t); len(got) > 0 {
		t.Errorf("%d bodies of no record", len(got))
	}
}

func archive(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "record.tar.gz")
	file, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	packed := gzip.NewWriter(file)
	list := tar.NewWriter(packed)
	for _, f := range record {
		if err := list.WriteHeader(&tar.Header{Name: f.name, Typeflag: tar.TypeReg, Mode: 0o600, Size: int64(len(f.text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := list.Write([]byte(f.text)); err != nil {
			t.Fatal(err)
		}
	}
	for _, end := range []func() error{list.Close, packed.Close, file.Close} {
		if err := end(); err != nil {
			t.Fatal(err)
		}
	}
	return name
}

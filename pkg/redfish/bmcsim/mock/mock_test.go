package mock_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/mock"
)

const root = `{"@odata.id":"/redfish/v1","Systems":{"@odata.id":"/redfish/v1/Systems"},"Links":{"Sessions":{"@odata.id":"/redfish/v1/Sessions"}}}`

var files = map[string]string{
	"":           root,
	"/Systems":   `{"Members":[{"@odata.id":"/redfish/v1/Systems/1"}],"Members@odata.nextLink":"/redfish/v1/Systems?$skip=1"}`,
	"/Systems/1": `{"Name":"one","Bad":{"@odata.id":"/redfish/v1/gone"}}`,
}

func write(t *testing.T, dir string) {
	t.Helper()
	for name, body := range files {
		at := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(at, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(at, "index.json"), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOpenKnowsTheLayouts(t *testing.T) {
	long, short, both := t.TempDir(), t.TempDir(), t.TempDir()
	write(t, filepath.Join(long, "redfish", "v1"))
	write(t, short)
	write(t, filepath.Join(both, "vendor-a", "redfish", "v1"))
	write(t, filepath.Join(both, "vendor-b"))
	if err := os.WriteFile(filepath.Join(both, "vendor-a", "redfish", "index.json"), []byte(`{"v1":"/redfish/v1/"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		dir   string
		names []string
		count int // resources of the first
	}{
		{long, []string{filepath.Base(long)}, 3},
		{short, []string{filepath.Base(short)}, 3},
		{both, []string{"vendor-a", "vendor-b"}, 4},
	} {
		trees, err := mock.Open(test.dir)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, tree := range trees {
			names = append(names, tree.Name)
		}
		if diff := cmp.Diff(test.names, names); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if got := trees[0].URIs(); len(got) != test.count {
			t.Errorf("%v: %v", test.names, got)
		}
	}
}

func TestOpenReadsArchives(t *testing.T) {
	var archive bytes.Buffer
	zipped := gzip.NewWriter(&archive)
	out := tar.NewWriter(zipped)
	for name, body := range files {
		_ = out.WriteHeader(&tar.Header{Name: "./v/redfish/v1" + name + "/index.json", Mode: 0o600, Size: int64(len(body)), Typeflag: tar.TypeReg})
		_, _ = out.Write([]byte(body))
	}
	_, _ = out.Close(), zipped.Close()
	path := filepath.Join(t.TempDir(), "trees.tar.gz")
	if err := os.WriteFile(path, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	trees, err := mock.Open(path)
	if err != nil || len(trees) != 1 || trees[0].Name != "v" || len(trees[0].URIs()) != 3 {
		t.Errorf("%v, %v", trees, err)
	}
	if _, err := mock.Open(t.TempDir()); !fault.Is(err, fault.BadInput) || fault.HintOf(err) == "" {
		t.Errorf("an empty folder: %v", err)
	}
}

func TestFetch(t *testing.T) {
	bodies := map[string][]byte{}
	for name, body := range files {
		bodies["/redfish/v1"+name] = []byte(body)
	}
	tree, err := mock.New("small", bodies)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = tree.Fetch(t.Context(), "/redfish/v1/Systems?$skip=1"); !fault.Is(err, fault.NotFound) {
		t.Errorf("a page that was not recorded: %v", err)
	}
	body, err := tree.Fetch(t.Context(), "/redfish/v1/Systems?$expand=.($levels=1)")
	if err != nil || !strings.Contains(string(body), `"Name":"one"`) {
		t.Errorf("expanded: %s, %v", body, err)
	}
}

// login is a redfish.Logins.
type login struct{ password string }

func (l login) Candidates(string) ([]redfish.Credentials, error) {
	return []redfish.Credentials{{User: "root", Password: fleet.NewSecret(l.password)}}, nil
}
func (login) Prove(string, redfish.Credentials) error { return nil }

// serve serves the one record in dir until the test ends.
func serve(t *testing.T, dir string) (s *mock.Server, address string) {
	t.Helper()
	trees, err := mock.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	s, err = mock.NewServer(trees[0], "secret-1")
	if err != nil {
		t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if failed := <-done; failed != nil {
			t.Error(failed)
		}
	})
	return s, l.Addr().String()
}

func TestOurClientReadsAServedTree(t *testing.T) {
	dir := t.TempDir()
	write(t, dir)
	s, address := serve(t, dir)
	open := func(password string) *redfish.Client {
		made, failed := redfish.New(redfish.Config{BMC: "b", Address: address, Pin: s.Pin(), Logins: login{password}})
		if failed != nil {
			t.Fatal(failed)
		}
		return made
	}
	c := open("secret-1")
	tree, err := redfish.Crawl(t.Context(), c, redfish.CrawlLimits{})
	if err != nil || len(tree.Resources) != 6 { // two of them are links to nothing
		t.Errorf("%d resources, %v", len(tree.Resources), err)
	}
	if s.Sessions() != 1 {
		t.Errorf("%d sessions, want one", s.Sessions())
	}
	if _, err := c.Patch(t.Context(), "/redfish/v1/Systems/1", map[string]string{"AssetTag": "x"}); err == nil {
		t.Error("a record took a write")
	}
	if err := c.Close(t.Context()); err != nil || s.Sessions() != 0 {
		t.Errorf("%d sessions after the end, %v", s.Sessions(), err)
	}
	if _, err := open("wrong").Fetch(t.Context(), "/redfish/v1/Systems"); !fault.Is(err, fault.Denied) {
		t.Errorf("with a wrong password: %v", err)
	}
}

// TestOurClientReadsABrokenTree holds that what is broken harms nothing else, over
// the network too: the children of a broken list are found in its text.
func TestOurClientReadsABrokenTree(t *testing.T) {
	dir := t.TempDir()
	for name, body := range map[string]string{
		"index.json":             "\xEF\xBB\xBF" + root,
		"Systems/index.json":     `{"Members":[,{"@odata.id":"/redfish/v1/systems/1"}]}`,
		"Systems/1.json":         "\xff\xfe{\x00}\x00",
		"Systems/1/a/index.json": "{}",
	} {
		at := filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o700), os.WriteFile(at, []byte(body), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	s, address := serve(t, dir)
	c, err := redfish.New(redfish.Config{BMC: "b", Address: address, Pin: s.Pin(), Logins: login{"secret-1"}})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := redfish.Crawl(t.Context(), c, redfish.CrawlLimits{})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, r := range tree.Resources {
		got[r.URI] = string(r.Body) + r.Err
	}
	if len(got) != 4 || !strings.HasPrefix(got["/redfish/v1/"], "{") || got["/redfish/v1/systems/1"] != "{}" {
		t.Errorf("got %v", got)
	}
	if !strings.Contains(got["/redfish/v1/Systems"], "not JSON") {
		t.Errorf("the broken list says %q", got["/redfish/v1/Systems"])
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestASecondReadCostsFewBytes holds that a served tree has tags, as most BMCs do.
func TestASecondReadCostsFewBytes(t *testing.T) {
	dir := t.TempDir()
	write(t, dir)
	s, _ := serve(t, dir)
	ask := func(tag string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/redfish/v1", http.NoBody)
		r.Header.Set("If-None-Match", tag)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w
	}
	first := ask("")
	again := ask(first.Header().Get("ETag"))
	if first.Body.Len() == 0 || again.Code != http.StatusNotModified || again.Body.Len() > 0 {
		t.Errorf("%d bytes, then %d with %d bytes", first.Body.Len(), again.Code, again.Body.Len())
	}
}

func TestOpenReadsOneFile(t *testing.T) {
	all := map[string]json.RawMessage{"cut": json.RawMessage(`"it has more"`)}
	for name, body := range files {
		all["/redfish/v1"+name] = json.RawMessage(body)
	}
	doc, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "r01-u03.json")
	if err = os.WriteFile(path, doc, 0o600); err != nil {
		t.Fatal(err)
	}
	trees, err := mock.Open(path)
	if err != nil || len(trees) != 1 || trees[0].Name != "r01-u03" || len(trees[0].URIs()) != 3 {
		t.Errorf("%v, %v", trees, err)
	}
	var archive bytes.Buffer
	z := zip.NewWriter(&archive)
	for name, body := range files {
		w, failed := z.Create("Redfish/V1" + name + "/index.json")
		if failed == nil {
			_, failed = w.Write([]byte(body))
		}
		if failed != nil {
			t.Fatal(failed)
		}
	}
	if err = z.Close(); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "acme.zip")
	if err = os.WriteFile(path, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	trees, err = mock.Open(path)
	if err != nil || len(trees) != 1 || trees[0].Name != "acme" || len(trees[0].URIs()) != 3 {
		t.Errorf("%v, %v", trees, err)
	}
}

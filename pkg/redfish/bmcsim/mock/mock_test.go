package mock_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"net"
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

func TestOurClientReadsAServedTree(t *testing.T) {
	dir := t.TempDir()
	write(t, dir)
	trees, err := mock.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	s, err := mock.NewServer(trees[0], "secret-1")
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
	open := func(password string) *redfish.Client {
		made, failed := redfish.New(redfish.Config{BMC: "b", Address: l.Addr().String(), Pin: s.Pin(), Logins: login{password}})
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

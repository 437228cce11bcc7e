// Package mock serves recorded resource trees as a BMC would: read-only, over
// HTTPS, with sessions. It knows no vendor; what the record holds is what a
// client sees, mistakes included. So a client can be tried against any make of
// BMC of which somebody kept a tree.
//
// A record is a folder with one index.json per resource: DMTF's mockup layout
// (DIR/redfish/v1/…/index.json) or the short one, in which DIR is /redfish/v1.
package mock

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

const (
	service = "/redfish/v1"
	index   = "index.json"
	// maxFile and maxFiles bound what is read of a record.
	maxFile  = 8 << 20
	maxFiles = 50_000
)

// Tree is one recorded service: the bodies by the path of the resource, without
// a slash at the end. It does not change and is safe for concurrent use.
type Tree struct {
	Name      string
	resources map[string][]byte
}

// New makes a tree of bodies by URI.
func New(name string, bodies map[string][]byte) (*Tree, error) {
	t := &Tree{Name: name, resources: make(map[string][]byte, len(bodies))}
	for uri, body := range bodies {
		t.resources[key(uri)] = body
	}
	if _, found := t.resources[service]; !found {
		return nil, fault.New(fault.BadInput, "open the record "+name, "it has no "+service).
			WithHint("a record is a folder with redfish/v1/index.json, one index.json per resource")
	}
	return t, nil
}

// Open reads every record that is in name, a folder or a .tar.gz, each called
// after its folder.
func Open(name string) ([]*Tree, error) {
	files, err := load(name)
	if err != nil {
		return nil, fault.Wrap(fault.BadInput, "open the record "+name, err)
	}
	var trees []*Tree
	for _, root := range roots(files) {
		bodies := map[string][]byte{}
		for file, body := range files {
			if uri, ok := uriOf(root, file); ok {
				bodies[uri] = body
			}
		}
		title := path.Base(strings.TrimSuffix(root, service))
		if title == "." || title == "/" {
			title = strings.TrimSuffix(filepath.Base(name), ".tar.gz")
		}
		tree, err := New(title, bodies)
		if err != nil {
			return nil, err
		}
		trees = append(trees, tree)
	}
	if len(trees) == 0 {
		return nil, fault.New(fault.BadInput, "open the record "+name, "there is no service root in it").
			WithHint("a record is a folder with redfish/v1/index.json, one index.json per resource")
	}
	return trees, nil
}

// load is every index.json by its path, which begins with a slash.
func load(name string) (map[string][]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return loadDir(os.DirFS(name))
	}
	return loadTar(name)
}

func loadDir(dir fs.FS) (map[string][]byte, error) {
	files := map[string][]byte{}
	return files, fs.WalkDir(dir, ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Base(file) != index {
			return err
		}
		f, err := dir.Open(file)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }() // it was only read
		return keep(files, file, f)
	})
}

func loadTar(name string) (map[string][]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it is only read
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	files, archive := map[string][]byte{}, tar.NewReader(unzipped)
	for {
		head, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if head.Typeflag == tar.TypeReg && path.Base(head.Name) == index {
			if err := keep(files, head.Name, archive); err != nil {
				return nil, err
			}
		}
	}
}

func keep(files map[string][]byte, name string, r io.Reader) error {
	body, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	switch {
	case err != nil:
		return err
	case len(body) > maxFile:
		return fmt.Errorf("%s has more than %d MiB", name, maxFile>>20)
	case len(files) >= maxFiles:
		return fmt.Errorf("there are more than %d files", maxFiles)
	}
	files[path.Clean("/"+name)] = body
	return nil
}

// roots are the folders that stand for /redfish/v1: those so called, or else the
// uppermost with an index.json.
func roots(files map[string][]byte) []string {
	var named, upper []string
	for _, file := range slices.Sorted(maps.Keys(files)) {
		dir := path.Dir(file)
		if strings.HasSuffix(dir, service) {
			named = append(named, dir)
		}
	}
	within := func(dir string, all []string) bool {
		return slices.ContainsFunc(all, func(r string) bool {
			r = strings.TrimSuffix(r, service)
			return dir == r || r == "" || r == "/" || strings.HasPrefix(dir, r+"/")
		})
	}
	byDepth := slices.SortedStableFunc(maps.Keys(files), func(a, b string) int {
		if n := strings.Count(a, "/") - strings.Count(b, "/"); n != 0 {
			return n
		}
		return strings.Compare(a, b)
	})
	for _, file := range byDepth {
		if dir := path.Dir(file); !within(dir, named) && !within(dir, upper) {
			upper = append(upper, dir)
		}
	}
	return append(named, upper...)
}

// uriOf is the URI of a file in the tree under root. What stands beside
// /redfish/v1 in DMTF's layout, /redfish itself, belongs to it.
func uriOf(root, file string) (string, bool) {
	dir := path.Dir(file)
	if dir == root {
		return service, true
	}
	if rest, found := strings.CutPrefix(dir, strings.TrimSuffix(root, "/")+"/"); found {
		return service + "/" + rest, true
	}
	if above, full := strings.CutSuffix(root, service); full && dir == above+"/redfish" {
		return "/redfish", true
	}
	return "", false
}

// key is a URI as the record's folders are named: without the query, without a
// slash at the end.
func key(uri string) string {
	uri, _, _ = strings.Cut(uri, "?")
	return strings.TrimRight(uri, "/")
}

// URIs are the resources of the record, sorted.
func (t *Tree) URIs() []string { return slices.Sorted(maps.Keys(t.resources)) }

// Fetch is the recorded body: a tree is a redfish.Getter without a network.
func (t *Tree) Fetch(_ context.Context, uri string) ([]byte, error) {
	if body, found := t.find(uri); found {
		return body, nil
	}
	return nil, fault.New(fault.NotFound, "read "+uri, "the record has no such resource")
}

// find is the answer to a URI with its query. A later page of a collection is
// not in a record, and is not made up; $expand is carried out.
func (t *Tree) find(uri string) ([]byte, bool) {
	body, found := t.resources[key(uri)]
	_, query, _ := strings.Cut(uri, "?")
	if !found || query == "" {
		return body, found
	}
	if strings.Contains(query, "skip=") && !strings.Contains(query, "skip=0") {
		return nil, false
	}
	if strings.Contains(query, "$expand=") || strings.Contains(query, "%24expand=") {
		return t.expand(body), true
	}
	return body, true
}

// expand puts the members in the place of their links.
func (t *Tree) expand(body []byte) []byte {
	var doc map[string]json.RawMessage
	var members []json.RawMessage
	if json.Unmarshal(body, &doc) != nil || json.Unmarshal(doc["Members"], &members) != nil {
		return body
	}
	for i, m := range members {
		var link struct {
			ID string `json:"@odata.id"`
		}
		if json.Unmarshal(m, &link) != nil {
			continue
		}
		if whole, found := t.resources[key(link.ID)]; found && json.Valid(whole) {
			members[i] = bytes.TrimSpace(whole)
		}
	}
	list, err := json.Marshal(members)
	if err != nil {
		return body
	}
	doc["Members"] = list
	if out, err := json.Marshal(doc); err == nil {
		return out
	}
	return body
}

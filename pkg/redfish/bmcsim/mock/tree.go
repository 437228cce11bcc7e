// Package mock serves recorded resource trees as a BMC would: read-only, over
// HTTPS, with sessions. It knows no vendor; what the record holds is what a
// client sees, mistakes included. So a client can be tried against any make of
// BMC of which somebody kept a tree.
//
// A record is a folder with one index.json per resource: DMTF's mockup layout
// (DIR/redfish/v1/…/index.json) or the short one, in which DIR is /redfish/v1. A
// resource may as well be a file of its own name (Systems/1.json), and one file
// may hold them all by their URIs, as chiba dump json writes it. No file of a
// record is left out, whatever is in it.
package mock

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
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
	folded    map[string]string // how a path may be written otherwise -> the path
}

// New makes a tree of bodies by URI.
func New(name string, bodies map[string][]byte) (*Tree, error) {
	t := &Tree{Name: name, resources: make(map[string][]byte, len(bodies)), folded: make(map[string]string, len(bodies))}
	for uri, body := range bodies {
		t.resources[key(uri)] = body
	}
	for _, uri := range t.URIs() {
		for _, other := range []string{fold(uri), fold(strings.TrimSuffix(uri, ".json"))} {
			if _, taken := t.folded[other]; !taken {
				t.folded[other] = uri
			}
		}
	}
	if _, found := t.at(service); !found {
		return nil, fault.New(fault.BadInput, "open the record "+name, "it has no "+service).
			WithHint("a record is a folder with redfish/v1/index.json, one index.json per resource")
	}
	return t, nil
}

// fold is a URI without what file systems and archives change: the case, and
// what is percent-encoded.
func fold(uri string) string {
	if plain, err := url.PathUnescape(uri); err == nil {
		uri = plain
	}
	return strings.ToLower(uri)
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
		for _, file := range slices.Sorted(maps.Keys(files)) {
			at, _ := folder(file)
			uri, within := uriOf(root, at)
			if _, taken := bodies[uri]; taken { // an index.xml beside an index.json
				uri, _ = uriOf(root, file)
			}
			if within {
				bodies[uri] = files[file]
			}
		}
		title := path.Base(above(root))
		if title == "." || title == "/" {
			title = filepath.Base(name)
			for _, end := range []string{".gz", ".tgz", ".tar", ".zip", ".json"} {
				title = strings.TrimSuffix(title, end)
			}
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

// load is every file by its path, which begins with a slash.
func load(name string) (map[string][]byte, error) {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return loadDir(os.DirFS(name))
	case strings.HasSuffix(name, ".zip"):
		archive, err := zip.OpenReader(name)
		if err != nil {
			return nil, err
		}
		defer func() { _ = archive.Close() }() // it was only read
		return loadDir(archive)
	case strings.HasSuffix(name, ".json"):
		return loadDump(name)
	}
	return loadTar(name)
}

func loadDir(dir fs.FS) (map[string][]byte, error) {
	files := map[string][]byte{}
	return files, fs.WalkDir(dir, ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !kept(file) {
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
	var plain io.Reader = f
	if !strings.HasSuffix(name, ".tar") {
		if plain, err = gzip.NewReader(f); err != nil {
			return nil, err
		}
	}
	files, archive := map[string][]byte{}, tar.NewReader(plain)
	for {
		head, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if head.Typeflag == tar.TypeReg && kept(head.Name) {
			if err := keep(files, head.Name, archive); err != nil {
				return nil, err
			}
		}
	}
}

// loadDump reads one file with every resource by its URI.
func loadDump(name string) (map[string][]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it is only read
	var bodies map[string]json.RawMessage
	if err := json.NewDecoder(io.LimitReader(f, maxFiles*1024)).Decode(&bodies); err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for uri, body := range bodies {
		if strings.HasPrefix(uri, "/") {
			files[path.Join(key(uri), index)] = body
		}
	}
	return files, nil
}

// kept tells a resource's file from what a mockup keeps about it, and from what
// the system of whoever made it left behind.
func kept(file string) bool {
	base := path.Base(file)
	return base != "headers.json" && base != "time.json" && !strings.HasPrefix(base, ".") && !strings.Contains(file, "__MACOSX/")
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
		if dir, isIndex := folder(file); isIndex && strings.HasSuffix(strings.ToLower(dir), service) && !slices.Contains(named, dir) {
			named = append(named, dir)
		}
	}
	within := func(dir string, all []string) bool {
		return slices.ContainsFunc(all, func(r string) bool {
			r = above(r)
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
		if dir := path.Dir(file); path.Base(file) == index && !within(dir, named) && !within(dir, upper) {
			upper = append(upper, dir)
		}
	}
	return append(named, upper...)
}

// folder is the resource of a file as a path: the folder of an index, or else
// the file's own, of which ".json" is the file's and not the resource's for the
// service root alone: elsewhere it may be either.
func folder(file string) (string, bool) {
	if dir, base := path.Split(file); strings.HasPrefix(base, "index.") {
		return path.Clean(dir), true
	}
	if at, ok := strings.CutSuffix(file, ".json"); ok && strings.HasSuffix(strings.ToLower(at), service) {
		return at, true
	}
	return file, false
}

// uriOf is the URI of what is at a path in the tree under root. What stands
// beside /redfish/v1 in DMTF's layout, /redfish itself and other roots of the same
// BMC, belongs to it.
func uriOf(root, at string) (string, bool) {
	if at == root {
		return service, true
	}
	if rest, found := strings.CutPrefix(at, strings.TrimSuffix(root, "/")+"/"); found {
		return service + "/" + rest, true
	}
	if over := above(root); over != root {
		if rest, found := strings.CutPrefix(at, strings.TrimSuffix(over, "/")+"/"); found {
			return "/" + rest, true
		}
	}
	return "", false
}

// above is the folder that holds redfish/v1, or root if that is the short layout.
func above(root string) string {
	if strings.HasSuffix(strings.ToLower(root), service) {
		return path.Clean("/" + root[:len(root)-len(service)])
	}
	return root
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

// name is the path of the resource that a URI means: that one, or else the one
// that differs only in what file systems change.
func (t *Tree) name(uri string) string {
	if _, exact := t.resources[key(uri)]; exact {
		return key(uri)
	}
	return t.folded[fold(key(uri))]
}

func (t *Tree) at(uri string) ([]byte, bool) {
	body, found := t.resources[t.name(uri)]
	return body, found
}

// find is the answer to a URI with its query. A later page of a collection is
// not in a record, and is not made up; $expand is carried out.
func (t *Tree) find(uri string) ([]byte, bool) {
	body, found := t.at(uri)
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
		if whole, found := t.at(link.ID); found && json.Valid(whole) {
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

package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

const (
	// maxImage bounds what is fetched; no firmware comes near it.
	maxImage = 2 << 30
	// fetchedDir is where in the artifacts what was fetched is kept, by its digest.
	fetchedDir  = "fetched"
	maxFetched  = 16 // files there; the oldest go
	dialTimeout = 30 * time.Second
)

// artifacts are the images that an agent has on its disk. It is safe for
// concurrent use.
type artifacts struct {
	dir      string
	fetching chan struct{} // holds a token while something is fetched: a rack wants one image once
	client   *http.Client
}

func newArtifacts(dir string) *artifacts {
	transport := http.DefaultTransport.(*http.Transport).Clone() // verifies TLS by the system's authorities
	transport.DisableKeepAlives = true                           // one image now and then
	transport.ResponseHeaderTimeout = dialTimeout
	return &artifacts{dir: dir, fetching: make(chan struct{}, 1), client: &http.Client{Transport: transport}}
}

// image opens the image of an update, once it is seen to have the digest that it
// must have. What is sent is the file that was looked at. The caller closes it.
func (a *artifacts) image(ctx context.Context, f scl.Firmware) (redfish.Image, io.Closer, error) {
	const op = "get the image"
	if err := os.MkdirAll(path.Join(a.dir, fetchedDir), 0o750); err != nil {
		return redfish.Image{}, nil, fault.Wrap(fault.Unavailable, op, err)
	}
	root, err := os.OpenRoot(a.dir) // a link out of it leads nowhere
	if err != nil {
		return redfish.Image{}, nil, fault.Wrap(fault.Unavailable, op, err)
	}
	defer func() { _ = root.Close() }() // it was only read through
	file, err := a.open(ctx, root, f)
	if err != nil {
		return redfish.Image{}, nil, fault.Wrap(fault.KindOf(err), op, err)
	}
	image, err := checked(file, f)
	if err != nil {
		return redfish.Image{}, nil, errors.Join(fault.Wrap(fault.BadInput, op, err), file.Close())
	}
	return image, file, nil
}

// open finds the file, and fetches it if it has to.
func (a *artifacts) open(ctx context.Context, root *os.Root, f scl.Firmware) (*os.File, error) {
	names := []string{f.Image}
	if digest := digestOf(f); f.Remote() || strings.HasPrefix(f.Image, "sha256:") {
		name := "sha256-" + strings.TrimPrefix(digest, "sha256:")
		names = []string{name, path.Join(fetchedDir, name)}
	}
	for _, name := range names {
		file, err := root.Open(name)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return file, err
		}
	}
	if !f.Remote() {
		return nil, fault.New(fault.NotFound, "", fmt.Sprintf("there is no %s in the artifacts of this rack's agent", names[0])).
			WithHint("put it into " + a.dir + " on the agent, or name a URL with its digest")
	}
	name := names[len(names)-1]
	if err := a.fetchOnce(ctx, root, f, name); err != nil {
		return nil, err
	}
	return root.Open(name)
}

// digestOf is the digest that an image must have, "" if none is known.
func digestOf(f scl.Firmware) string {
	if strings.HasPrefix(f.Image, "sha256:") {
		return f.Image
	}
	return f.Digest
}

// checked reads a file once, to compare its digest.
func checked(file *os.File, f scl.Firmware) (redfish.Image, error) {
	sum := sha256.New()
	size, err := io.Copy(sum, file)
	if err != nil {
		return redfish.Image{}, err
	}
	for _, want := range []string{digestOf(f), f.Digest} {
		if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); want != "" && got != want {
			return redfish.Image{}, fmt.Errorf("%s has the digest %s and not the one that the script says", f.Image, got)
		}
	}
	if size == 0 {
		return redfish.Image{}, fmt.Errorf("%s is empty", f.Image)
	}
	return redfish.Image{Name: path.Base(strings.SplitN(f.Image, "?", 2)[0]), Size: size, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(file, 0, size)), nil
	}}, nil
}

// fetchOnce fetches an image, one at a time: who waits finds it there.
func (a *artifacts) fetchOnce(ctx context.Context, root *os.Root, f scl.Firmware, name string) error {
	select {
	case a.fetching <- struct{}{}:
		defer func() { <-a.fetching }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if _, err := root.Stat(name); err == nil {
		return nil
	}
	tidy(root)
	part := name + ".part" // one that a crash left is written over
	err := a.fetch(ctx, root, f, part)
	if err == nil {
		err = root.Rename(part, name)
	}
	if err != nil {
		_ = root.Remove(part)
	}
	return err
}

func (a *artifacts) fetch(ctx context.Context, root *os.Root, f scl.Firmware, part string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.Image, http.NoBody)
	if err != nil {
		return fault.Wrap(fault.BadInput, "", err)
	}
	res, err := a.client.Do(req)
	if err != nil {
		return fault.Wrap(fault.Unavailable, "", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fault.New(fault.Unavailable, "fetch "+f.Image, "the server answered "+res.Status)
	}
	file, err := root.Create(part)
	if err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(file, sum), io.LimitReader(res.Body, maxImage+1))
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return fault.Wrap(fault.Unavailable, "fetch "+f.Image, err)
	}
	switch got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); {
	case n > maxImage:
		return fault.New(fault.TooLarge, "fetch "+f.Image, fmt.Sprintf("it has more than %d GiB", maxImage>>30))
	case got != f.Digest:
		return fault.New(fault.Untrusted, "fetch "+f.Image, "it has the digest "+got+" and not the one that the script says").
			WithHint("the file there was changed, or the script names another one; nothing was sent to a BMC")
	}
	return nil
}

// tidy removes the oldest of what was fetched, so that there is room for one more.
func tidy(root *os.Root) {
	entries, err := fs.ReadDir(root.FS(), fetchedDir)
	if err != nil {
		return // it only grows by one
	}
	age := func(e fs.DirEntry) time.Time {
		info, err := e.Info()
		if err != nil {
			return time.Time{}
		}
		return info.ModTime()
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return age(a).Compare(age(b)) })
	for i := 0; i <= len(entries)-maxFetched; i++ {
		_ = root.Remove(path.Join(fetchedDir, entries[i].Name()))
	}
}

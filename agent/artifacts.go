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
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/blob"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

const (
	// maxImage bounds what is fetched; no firmware comes near it.
	maxImage = 2 << 30
	// fetchedDir is where in the artifacts what was fetched is kept, by its digest: it
	// is a blob.Store.
	fetchedDir  = "fetched"
	dialTimeout = 30 * time.Second
)

// artifacts are the images that an agent has on its disk. It is safe for
// concurrent use.
type artifacts struct {
	dir      string
	store    *blob.Store
	depot    getter        // nil: there is none
	fetching chan struct{} // holds a token while something is fetched: a rack wants one image once
	client   *http.Client
}

// getter gets artifacts from the site or from a coordinator; a *depot.Depot is one.
type getter interface {
	Get(ctx context.Context, digest blob.Digest, told func(have, size int64)) error
	Try(ctx context.Context, digest blob.Digest, told func(have, size int64)) error
}

// openArtifacts opens the directory of images. They come from nowhere but from a URL
// until there is a depot.
func openArtifacts(dir string, quota int64) (*artifacts, error) {
	store, err := blob.Open(path.Join(dir, fetchedDir), quota)
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone() // verifies TLS by the system's authorities
	transport.DisableKeepAlives = true                           // one image now and then
	transport.ResponseHeaderTimeout = dialTimeout
	return &artifacts{dir: dir, store: store, fetching: make(chan struct{}, 1), client: &http.Client{Transport: transport}}, nil
}

// image opens the image of an update, once it is seen to have the digest that it
// must have. What is sent is the file that was looked at. The caller closes it.
func (a *artifacts) image(ctx context.Context, f scl.Firmware, told func(have, size int64)) (redfish.Image, io.Closer, error) {
	const op = "get the image"
	root, err := os.OpenRoot(a.dir) // a link out of it leads nowhere
	if err != nil {
		return redfish.Image{}, nil, fault.Wrap(fault.Unavailable, op, err)
	}
	defer func() { _ = root.Close() }() // it was only read through
	file, err := a.open(ctx, root, f, told)
	if err != nil {
		return redfish.Image{}, nil, fault.Wrap(fault.KindOf(err), op, err)
	}
	image, err := checked(file, f)
	if err != nil {
		return redfish.Image{}, nil, errors.Join(fault.Wrap(fault.BadInput, op, err), file.Close())
	}
	return image, file, nil
}

// open finds the file: in the directory by its name or its digest, among what was
// fetched, in the site, at a coordinator, or at its URL.
func (a *artifacts) open(ctx context.Context, root *os.Root, f scl.Firmware, told func(have, size int64)) (*os.File, error) {
	name, digest := f.Image, blob.Digest(digestOf(f))
	if f.Remote() || strings.HasPrefix(f.Image, "sha256:") {
		name = "sha256-" + strings.TrimPrefix(string(digest), "sha256:")
	}
	file, err := root.Open(name)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	if digest == "" {
		return nil, a.missing(name)
	}
	if _, err = blob.ParseDigest(string(digest)); err != nil {
		return nil, err
	}
	if _, has := a.store.Size(digest); !has {
		if err := a.get(ctx, f, name, told); err != nil {
			return nil, err
		}
	}
	return a.store.Use(digest)
}

func (a *artifacts) missing(name string) error {
	return fault.New(fault.NotFound, "", fmt.Sprintf("there is no %s in the artifacts of this rack's agent", name)).
		WithHint("give it to the coordinators with: chiba artifact add FILE; or put it into " + a.dir + " on the agent, or name a URL with its digest")
}

// get brings an image with a known digest into the store.
func (a *artifacts) get(ctx context.Context, f scl.Firmware, name string, told func(have, size int64)) error {
	digest := blob.Digest(digestOf(f))
	switch {
	case f.Remote():
		if a.depot != nil && a.depot.Try(ctx, digest, told) == nil {
			return nil
		}
		return a.fetchOnce(ctx, f)
	case a.depot == nil:
		return a.missing(name)
	}
	err := a.depot.Get(ctx, digest, told)
	if fault.Is(err, fault.NotFound) {
		return a.missing(name)
	}
	return err
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

// fetchOnce fetches an image from its URL, one at a time: who waits finds it there.
func (a *artifacts) fetchOnce(ctx context.Context, f scl.Firmware) error {
	select {
	case a.fetching <- struct{}{}:
		defer func() { <-a.fetching }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if _, has := a.store.Size(blob.Digest(f.Digest)); has {
		return nil
	}
	return a.fetch(ctx, f)
}

func (a *artifacts) fetch(ctx context.Context, f scl.Firmware) error {
	op := "fetch " + f.Image
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
		return fault.New(fault.Unavailable, op, "the server answered "+res.Status)
	}
	got, err := a.store.Take(res.Body, blob.Digest(f.Digest), maxImage)
	if got != "" && got != blob.Digest(f.Digest) {
		return fault.New(fault.Untrusted, op, "it has the digest "+string(got)+" and not the one that the script says").
			WithHint("the file there was changed, or the script names another one; nothing was sent to a BMC")
	}
	return fault.Wrap(fault.KindOf(err), op, err)
}

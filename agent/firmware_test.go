package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chiba-mesh/chiba/agent/bmc"
	"github.com/chiba-mesh/chiba/pkg/blob"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

func digestText(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// artifact puts a file into the agent's artifacts.
func (w *world) artifact(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.dir, "artifacts", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

const update = `(action "n1" (update-firmware "bmc" (image "bmc.tar") (version "2")))`

// Whoever watches a run sees how far it is; the result is the lane's.
func TestUpdateFirmwareInARun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.artifact("bmc.tar", "image")
		w.lanes["n1"].update = func(_ context.Context, u bmc.FirmwareUpdate) fleet.Result {
			u.Tell(bmc.FirmwareNews{Before: "1", Doing: "sends the image", Percent: 40})
			return fleet.Result{Status: fleet.Confirmed, Before: "1", After: "2"}
		}
		var doing []string
		w.start(w.dir)
		defer w.stop()
		w.link.doing = func(text string) { doing = append(doing, text) }
		w.run("R1", update)
		expect(t, []string{
			"R1 accepted for 1",
			`R1 n1: (update-firmware "bmc" (image "bmc.tar") (version "2")) confirmed`,
			"R1 done: 1 ok, 0 failed",
		}, w.records())
		expect(t, []string{"n1 gets the image", "n1 sends the image 40 %", ""}, doing)
		if got := w.lanes["n1"].did(); got != "update bmc with bmc.tar" {
			t.Errorf("n1 was told %q", got)
		}
	})
}

// kill -9 amid an update: it is not begun again, and the next process says what the
// last one knew, and what runs now.
func TestKilledAmidAnUpdate(t *testing.T) {
	for name, c := range map[string]struct {
		source string
		unread error
		want   string
	}{
		"as was asked": {
			source: update,
			want:   `confirmed (the agent stopped while it did (update-firmware "bmc" (image "bmc.tar") (version "2")); it is not repeated; when it was last heard of it was at "sends the image", and 1 ran; 2 runs now, as was asked)`,
		},
		"nobody said what was wanted": {
			source: `(action "n1" (update-firmware "bmc" (image "bmc.tar")))`,
			want:   `unknown (the agent stopped while it did (update-firmware "bmc" (image "bmc.tar")); it is not repeated; when it was last heard of it was at "sends the image", and 1 ran; 2 runs now)`,
		},
		"the BMC does not answer": {
			source: update, unread: fault.New(fault.Unavailable, "", "it restarts"),
			want: `unknown (the agent stopped while it did (update-firmware "bmc" (image "bmc.tar") (version "2")); it is not repeated; when it was last heard of it was at "sends the image", and 1 ran; the version can't be read now: it restarts)`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.artifact("bmc.tar", "image")
				l := w.lanes["n1"]
				l.update = func(ctx context.Context, u bmc.FirmwareUpdate) fleet.Result {
					u.Tell(bmc.FirmwareNews{Before: "1", Doing: "sends the image", Phase: true})
					<-ctx.Done()
					return fleet.Result{Status: fleet.Unknown}
				}
				w.start(w.dir)
				w.run("R1", c.source)
				dead := w.crash()
				w.stop()
				l.calls, l.logFails = nil, c.unread
				w.start(dead)
				defer w.stop()
				pass(time.Minute)
				got := w.records()
				if len(got) != 3 || !strings.HasSuffix(got[1], c.want) {
					t.Errorf("recorded %q\nwant %s", got, c.want)
				}
				if did := l.did(); did != "version of bmc" {
					t.Errorf("after the restart n1 was told %q", did)
				}
			})
		})
	}
}

// The same for an update that a rule began.
func TestKilledAmidTheUpdateOfARule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.artifact("bmc.tar", "image")
		w.lanes["n1"].update = func(ctx context.Context, u bmc.FirmwareUpdate) fleet.Result {
			u.Tell(bmc.FirmwareNews{Before: "1", Doing: "sends the image", Phase: true})
			<-ctx.Done()
			return fleet.Result{Status: fleet.Unknown}
		}
		w.start(w.dir)
		w.apply(`(monitor "n1" (trigger "fan" (condition (event "FanFailed")) (action (update-firmware bmc (image "bmc.tar")))))`)
		pass(time.Second)
		w.pushes("n1", fan(1))
		dead := w.crash()
		w.stop()
		w.start(dead)
		defer w.stop()
		expect(t, []string{`fan on n1, cut off, n1: (update-firmware bmc (image "bmc.tar")) unknown (the agent stopped while it did (update-firmware bmc (image "bmc.tar")); ` +
			`it is not repeated; when it was last heard of it was at "sends the image", and 1 ran)`}, w.records())
	})
}

// shelf serves images over verified TLS and counts who came.
func shelf(t *testing.T, a *artifacts, images map[string]string) (url string, asked *atomic.Int32) {
	t.Helper()
	asked = &atomic.Int32{}
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		text, there := images[r.URL.Path]
		if !there {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, text)
	}))
	t.Cleanup(s.Close)
	a.client = s.Client()
	t.Cleanup(a.client.CloseIdleConnections)
	return s.URL, asked
}

func read(t *testing.T, a *artifacts, f scl.Firmware) (string, error) {
	t.Helper()
	image, file, err := a.image(t.Context(), f, nil)
	if err != nil {
		return "", err
	}
	defer file.Close()
	for range 2 { // an upload may have to be sent twice
		body, err := image.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(body)
		if err != nil || int64(len(text)) != image.Size {
			t.Errorf("%d bytes of %d, %v", len(text), image.Size, err)
		}
		if err := body.Close(); err != nil {
			t.Error(err)
		}
	}
	return image.Name, nil
}

// A rack that wants one image fetches it once, and has it from then on.
func TestImageFromElsewhere(t *testing.T) {
	dir := t.TempDir()
	a := images(t, dir, 20)
	url, asked := shelf(t, a, map[string]string{"/dl/bmc.tar": "image"})
	f := scl.Firmware{Image: url + "/dl/bmc.tar?x=1", Digest: digestText("image")}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if name, err := read(t, a, f); err != nil || name != "bmc.tar" {
				t.Errorf("%s, %v", name, err)
			}
		})
	}
	all.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("it was fetched %d times", n)
	}
	if _, err := read(t, images(t, dir, 0), scl.Firmware{Image: digestText("image")}); err != nil {
		t.Errorf("by its digest: %v", err)
	}
	// What is kept is bounded.
	for i := range 4 {
		text := fmt.Sprint("image ", i)
		if err := a.store.Put(strings.NewReader(text), blob.Digest(digestText(text)), int64(len(text))); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.store.Remove(blob.Digest(f.Digest)); err != nil {
		t.Fatal(err)
	}
	if _, err := read(t, a, f); err != nil {
		t.Error(err)
	}
	if kept, err := a.store.List(); err != nil || len(kept) != 3 {
		t.Errorf("%d files are kept, %v", len(kept), err)
	}
}

// images are the artifacts in dir.
func images(t *testing.T, dir string, quota int64) *artifacts {
	t.Helper()
	a, err := openArtifacts(dir, quota)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.store.Close() })
	return a
}

// What has a digest comes from the site or a coordinator, and a URL is asked only for
// what they do not know.
func TestImageFromTheSite(t *testing.T) {
	a := images(t, t.TempDir(), 0)
	url, asked := shelf(t, a, map[string]string{"/a": "image", "/b": "another"})
	a.depot = &fakeDepot{a.store, map[string]string{digestText("image"): "image"}}
	for _, f := range []scl.Firmware{
		{Image: digestText("image")},
		{Image: url + "/a", Digest: digestText("image")},
		{Image: url + "/b", Digest: digestText("another")},
	} {
		if _, err := read(t, a, f); err != nil {
			t.Errorf("%s: %v", f.Image, err)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the URL was asked %d times", n)
	}
	if _, err := read(t, a, scl.Firmware{Image: digestText("nobody's")}); !fault.Is(err, fault.NotFound) || !strings.Contains(fault.HintOf(err), "chiba artifact add") {
		t.Errorf("what nobody knows: %v", err)
	}
}

type fakeDepot struct {
	store *blob.Store
	knows map[string]string
}

func (d *fakeDepot) Get(_ context.Context, digest blob.Digest, _ func(have, size int64)) error {
	text, is := d.knows[string(digest)]
	if !is {
		return fault.New(fault.NotFound, "", "nobody has it")
	}
	return d.store.Put(strings.NewReader(text), digest, int64(len(text)))
}

func (d *fakeDepot) Try(ctx context.Context, digest blob.Digest, told func(have, size int64)) error {
	return d.Get(ctx, digest, told)
}

func TestImagesThatAreNone(t *testing.T) {
	dir := t.TempDir()
	a := images(t, dir, 0)
	url, _ := shelf(t, a, map[string]string{"/changed": "another image"})
	if err := os.WriteFile(filepath.Join(dir, "bmc.tar"), []byte("image"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/hosts", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	other := digestText("another image")
	for _, c := range []struct {
		f    scl.Firmware
		kind fault.Kind
		want string
	}{
		{scl.Firmware{Image: "bmc.tar"}, "", ""},
		{scl.Firmware{Image: "bmc.tar", Digest: digestText("image")}, "", ""},
		{scl.Firmware{Image: "bmc.tar", Digest: other}, fault.BadInput, "bmc.tar has the digest " + digestText("image") + " and not the one that the script says"},
		{scl.Firmware{Image: "none.tar"}, fault.NotFound, "there is no none.tar in the artifacts of this rack's agent"},
		{scl.Firmware{Image: other}, fault.NotFound, "there is no sha256-" + strings.TrimPrefix(other, "sha256:")},
		{scl.Firmware{Image: "empty"}, fault.BadInput, "empty is empty"},
		{scl.Firmware{Image: "link"}, fault.Internal, "escapes"},
		{scl.Firmware{Image: url + "/changed", Digest: digestText("image")}, fault.Untrusted, "it has the digest " + other},
		{scl.Firmware{Image: url + "/none", Digest: other}, fault.Unavailable, "404 Not Found"},
		{scl.Firmware{Image: "https://127.0.0.1:1/x", Digest: other}, fault.Unavailable, "connection refused"},
	} {
		_, err := read(t, a, c.f)
		if c.want == "" && err != nil || c.want != "" && (!fault.Is(err, c.kind) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v (%s); want %s", c.f, err, fault.KindOf(err), c.want)
		}
	}
	if left, _ := os.ReadDir(filepath.Join(dir, fetchedDir)); len(left) != 0 {
		t.Errorf("what was refused is kept: %v", left)
	}
}

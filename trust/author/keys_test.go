package author_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/audit"
	"github.com/chiba-mesh/chiba/trust/ca"
	"github.com/chiba-mesh/chiba/trust/seal"
	"github.com/chiba-mesh/chiba/trust/sign"
)

// Every private key is made readable for its owner alone, in directories that are
// that, and refused when it is not any more: whoever has read it is us.
func TestAKeyThatOthersCanReadIsRefused(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	site, err := ca.Open(at("ca"), "osl1")
	if err != nil {
		t.Fatal(err)
	}
	if err = site.Ensure(at("ada"), trust.Identity{Role: trust.Operator, Name: "ada"}); err != nil {
		t.Fatal(err)
	}
	own, err := trust.Load(at("ada"))
	if err != nil {
		t.Fatal(err)
	}
	context := client.Context{Address: "https://127.0.0.1:1", CA: at("ada/ca.pem"), Cert: at("ada/cert.pem"), Key: at("ada/key.pem")}
	readers := map[string]func() error{
		"ca/root/1/key.pem": func() error { _, err := ca.OpenRoot(at("ca/root")); return err },
		"ca/site/key.pem":   func() error { _, err := ca.OpenSite(at("ca/site")); return err },
		"rack/1/key.pem": func() error {
			_, err := ca.OpenRack(at("rack"), trust.Domain{Site: "osl1", Rack: "r17"}, nil)
			return err
		},
		"ada/key.pem":          func() error { _, err := trust.Load(at("ada")); return err },
		"ada/key.pem, context": func() error { _, err := client.Open(context, nil); return err },
		"authors/author.key":   func() error { _, err := sign.EnsureKey(at("authors/author.key")); return err },
		"agent/seal.key":       func() error { _, err := seal.OpenKey(at("agent/seal.key")); return err },
		"agent/seal.key, old":  func() error { return seal.RenewKey(at("agent/seal.key"), time.Now(), false) },
		"c1/audit.key":         func() error { _, err := audit.OpenNotary(at("c1/audit.key"), own.Certificate); return err },
	}
	for _, name := range []string{"rack/1/key.pem", "authors/author.key", "agent/seal.key", "c1/audit.key"} {
		if err := readers[name](); err != nil { // it makes one
			t.Fatal(name, err)
		}
	}
	for name, read := range readers {
		path, _, _ := strings.Cut(at(name), ",")
		info, err := os.Stat(path)
		parent, err2 := os.Stat(filepath.Dir(path))
		if err = errors.Join(err, err2, read()); err != nil {
			t.Fatal(name, err)
		}
		if info.Mode().Perm() != 0o600 || parent.Mode().Perm() != 0o700 {
			t.Errorf("%s is made with mode %v in %v", name, info.Mode(), parent.Mode())
		}
		for _, mode := range []fs.FileMode{0o644, 0o660, 0o602} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
			if err := read(); err == nil || !strings.Contains(fault.HintOf(err), "chmod 600 "+path) {
				t.Errorf("%s with mode %v: %v, hint %q", name, mode, err, fault.HintOf(err))
			}
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

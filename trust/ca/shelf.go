package ca

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/chiba-mesh/chiba/trust"
)

// shelf is a directory of the generations of one authority's key, each in a
// directory of its own: 1, 2, … The file "current" names the one that signs, so
// that a change of key is one replaced file, and a crash leaves either.
type shelf string

const (
	currentFile = "current"
	keyFile     = "key.pem"  // last to be written: a generation with it is whole
	certFile    = "cert.pem" // self-signed
	chainFile   = "chain.pem"
	crossFile   = "cross.pem" // a root, signed by the one before
)

func (s shelf) path(generation int, name string) string {
	return filepath.Join(string(s), strconv.Itoa(generation), name)
}

// current is the generation that signs; fs.ErrNotExist: there is none yet.
func (s shelf) current() (int, error) {
	text, err := os.ReadFile(filepath.Join(string(s), currentFile))
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%s holds %q, not a number", filepath.Join(string(s), currentFile), text)
	}
	return n, nil
}

func (s shelf) setCurrent(generation int) error {
	return trust.WriteFile(filepath.Join(string(s), currentFile), 0o644, []byte(strconv.Itoa(generation)+"\n"))
}

// whole reports whether the generation is there.
func (s shelf) whole(generation int) (bool, error) {
	_, err := os.Stat(s.path(generation, keyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// begin makes the directory of a generation, empty of what a crash has left.
func (s shelf) begin(generation int) error {
	at := s.path(generation, "")
	if err := os.RemoveAll(at); err != nil {
		return err
	}
	return os.MkdirAll(at, 0o700)
}

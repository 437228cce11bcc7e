// Package recorded gives tests what real BMCs have said, on a machine that has
// such records. The fuzz tests of all that reads a BMC begin with it; without
// records they begin with the few bodies that they hold themselves.
package recorded

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Where is the variable of the environment that lists records, as PATH lists
// folders. A record is a folder or a .tar.gz.
const Where = "CHIBA_RECORDED"

const (
	// largest is the largest body, in bytes: a fuzzer bends what it can keep.
	largest = 64 << 10
	// most bounds what is unpacked of one archive, in bytes.
	most = 256 << 20
)

// TB is what Bodies needs of a test.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
}

// Bodies are the bodies of the records that Where lists, each once, in the order
// of the records; none if it lists none. A file that holds an exchange, an object
// with a response, gives the body of the response; any other is a body itself.
func Bodies(tb TB) [][]byte {
	tb.Helper()
	var list [][]byte
	seen := map[string]bool{}
	for _, name := range filepath.SplitList(os.Getenv(Where)) {
		err := files(name, func(text []byte) {
			body := bodyOf(text)
			if len(body) > 0 && len(body) <= largest && !seen[string(body)] {
				seen[string(body)] = true
				list = append(list, body)
			}
		})
		if err != nil {
			tb.Fatalf("read the record %s: %v", name, err)
		}
	}
	return list
}

// bodyOf is the body that a file of a record holds.
func bodyOf(text []byte) []byte {
	var exchange struct {
		Response *struct {
			Body json.RawMessage
			Text string `json:"body_text"`
		}
	}
	if json.Unmarshal(text, &exchange) != nil || exchange.Response == nil {
		return text
	}
	var plain string
	switch r := exchange.Response; {
	case r.Text != "":
		return []byte(r.Text)
	case json.Unmarshal(r.Body, &plain) == nil:
		return []byte(plain)
	default:
		return r.Body
	}
}

// files gives each the content of every file of a record.
func files(name string, each func([]byte)) error {
	info, err := os.Stat(name) //nolint:gosec // a test reads what its user names
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return unpack(name, each)
	}
	return filepath.WalkDir(name, func(path string, entry fs.DirEntry, err error) error { //nolint:gosec // as above
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path) //nolint:gosec // as above
		each(text)
		return err
	})
}

func unpack(name string, each func([]byte)) (err error) {
	file, err := os.Open(name) //nolint:gosec // as above
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	plain, err := gzip.NewReader(file)
	if err != nil {
		return err
	}
	archive := tar.NewReader(io.LimitReader(plain, most))
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		var text bytes.Buffer
		if _, err := io.Copy(&text, archive); err != nil { //nolint:gosec // bounded by most
			return fmt.Errorf("%s: %w", header.Name, err)
		}
		each(text.Bytes())
	}
}

package main

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// recording is one exchange with a real bmcweb.
type recording struct {
	name    string
	group   string
	Request struct {
		Method  string
		Path    string
		Headers map[string]string
		Body    json.RawMessage
	}
	Response struct {
		Status    int
		Headers   [][2]string
		Body      any
		BodyText  string `json:"body_text"`
		Exception string // how the connection failed, if there was no answer
	}
}

// load reads every exchange of a directory or of a tar.gz of one. What is in
// there besides exchanges (dumps, polls, listener logs) is other, by its name.
func load(source string) (list []recording, other map[string][]byte, err error) {
	files, err := read(source)
	if err != nil {
		return nil, nil, err
	}
	other = map[string][]byte{}
	for name, text := range files {
		rec := recording{name: strings.TrimSuffix(name, ".json")}
		if !numbered.MatchString(name) {
			other[name] = text
			continue
		}
		if err := json.Unmarshal(text, &rec); err != nil {
			return nil, nil, fmt.Errorf("read %s: %w", name, err)
		}
		rec.group = numbered.FindStringSubmatch(name)[1]
		list = append(list, rec)
	}
	slices.SortFunc(list, func(a, b recording) int { return strings.Compare(a.name, b.name) })
	return list, other, nil
}

// numbered is the name of an exchange's file: GROUP_NNN_what.json.
var numbered = regexp.MustCompile(`^(.+?)_\d{3}_.*\.json$`)

func read(source string) (map[string][]byte, error) {
	info, err := os.Stat(source)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return readDir(source)
	}
	return readArchive(source)
}

func readDir(dir string) (map[string][]byte, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		files[filepath.Base(name)] = text
	}
	return files, nil
}

// maxRecordings bounds what an archive may unpack to.
const maxRecordings = 256 << 20

func readArchive(name string) (map[string][]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", name, err)
	}
	files := map[string][]byte{}
	archive := tar.NewReader(io.LimitReader(unzipped, maxRecordings))
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, fmt.Errorf("unpack %s: %w", name, err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			return nil, fmt.Errorf("unpack %s: %w", name, err)
		}
		files[path.Base(h.Name)] = text
	}
}

func (rec recording) header() map[string]string {
	h := map[string]string{}
	for _, kv := range rec.Response.Headers {
		h[kv[0]] = kv[1]
	}
	return h
}

// body is the request's body. One that was no JSON object is kept as a text.
func (rec recording) body() string {
	var text string
	if json.Unmarshal(rec.Request.Body, &text) == nil {
		return text
	}
	return string(rec.Request.Body)
}

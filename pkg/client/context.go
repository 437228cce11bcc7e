package client

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/goccy/go-yaml"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// ContextFile is the name of a context in a state directory.
const ContextFile = "context.yaml"

// StateDir is the state directory of `chiba dev`, looked for upwards from the
// current directory.
const StateDir = ".chiba"

// StateVar is the environment variable that names a state directory.
const StateVar = "CHIBA_STATE"

// Context says which coordinator to talk to and as whom. The paths are
// of PEM files; in a file they are relative to it.
type Context struct {
	Address    string `yaml:"address"`               // https://host:port, or those of several coordinators with commas between
	ServerName string `yaml:"server_name,omitempty"` // in the coordinator's certificate, if not the address's host
	CA         string `yaml:"ca"`                    // who signs coordinators' certificates
	Cert       string `yaml:"cert"`                  // our certificate, with its chain
	Key        string `yaml:"key"`                   // its private key
	Author     string `yaml:"author,omitempty"`      // our author key; without one we can look and change nothing

	file   string // where it was read from, for hints
	socket string // of the agent it leads to; "": it leads to coordinators
}

// Find is the path of the context to use: that of the state directory dir, if
// given, else of the one that CHIBA_STATE names, else of .chiba in the current
// directory or the nearest parent that has one, as git does.
func Find(dir string) (string, error) {
	if dir == "" {
		dir = os.Getenv(StateVar)
	}
	if dir != "" {
		path := filepath.Join(dir, ContextFile)
		if !exists(path) {
			return "", missing("no " + ContextFile + " in " + dir).
				WithHint("start a fleet there with: chiba dev --state " + dir)
		}
		return path, nil
	}
	wd, err := os.Getwd()
	if err != nil {
		return "", fault.Wrap(fault.Internal, "find a context", err)
	}
	for at := wd; ; at = filepath.Dir(at) {
		path := filepath.Join(at, StateDir, ContextFile)
		if exists(path) {
			return path, nil
		}
		if at == filepath.Dir(at) {
			return "", missing("no " + filepath.Join(StateDir, ContextFile) + " here or in a directory above").
				WithHint("start one with: chiba dev, or name its directory with --state DIR")
		}
	}
}

func missing(msg string) *fault.Error { return fault.New(fault.NotFound, "find a coordinator", msg) }

func exists(path string) bool {
	_, err := os.Stat(path) //nolint:gosec // the person's own environment names it
	return err == nil
}

// Load reads a context. Its paths come back absolute or relative to the
// current directory.
func Load(path string) (Context, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Context{}, missing("no file " + path).WithHint("start one with: chiba dev")
	}
	if err != nil {
		return Context{}, fault.Wrap(fault.BadInput, "read the context", err)
	}
	c := Context{file: path}
	if err := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict()).Decode(&c); err != nil {
		text := yaml.FormatError(err, false, false)
		return Context{}, fault.New(fault.BadInput, "read "+path, text).
			WithHint("it needs address, ca, cert and key")
	}
	for _, field := range []struct{ name, value string }{
		{"address", c.Address}, {"ca", c.CA}, {"cert", c.Cert}, {"key", c.Key},
	} {
		if field.value == "" {
			return Context{}, fault.New(fault.BadInput, "read "+path, field.name+" is missing").
				WithHint("it needs address, ca, cert and key")
		}
	}
	for _, p := range []*string{&c.CA, &c.Cert, &c.Key, &c.Author} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(filepath.Dir(path), *p)
		}
	}
	return c, nil
}

// Dir is the directory that c was read from.
func (c Context) Dir() string { return filepath.Dir(c.file) }

// Save writes c to the state directory dir, for its owner alone, whole or not
// at all. Relative paths stay as they are: they are relative to dir.
func (c Context) Save(dir string) error {
	data, err := yaml.Marshal(c)
	if err != nil {
		return fault.Wrap(fault.Internal, "write the context", err)
	}
	path := filepath.Join(dir, ContextFile)
	fresh := path + ".new"
	if err := os.WriteFile(fresh, data, 0o600); err != nil {
		return fault.Wrap(fault.Unavailable, "write the context", err)
	}
	return fault.Wrap(fault.Unavailable, "write the context", os.Rename(fresh, path))
}

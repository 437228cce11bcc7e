package sim

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/mock"
)

// Mock is a recorded tree of a real BMC that is served read-only.
type Mock struct {
	Name fleet.NodeName // "": after the tree's folder
	Path string         // a folder or a .tar.gz; see mock.Open
}

// parseMock reads [NAME=]PATH.
func parseMock(text string) (Mock, error) {
	name, path, named := strings.Cut(text, "=")
	if !named {
		name, path = "", text
	}
	if path == "" || named && !nodeName.MatchString(name) {
		return Mock{}, fault.New(fault.BadInput, "", fmt.Sprintf("--mock %q is not [NAME=]DIR", text)).
			WithHint("for example: --mock r740=dumps/idrac9")
	}
	return Mock{Name: fleet.NodeName(name), Path: filepath.Clean(path)}, nil
}

// recorded is one running mock.
type recorded struct {
	name     fleet.NodeName
	server   *mock.Server
	listener net.Listener
}

func (r *Rack) addMock(ctx context.Context, m Mock, ports map[fleet.NodeName]int) error {
	trees, err := mock.Open(m.Path)
	if err != nil {
		return err
	}
	for _, tree := range trees {
		name := fleet.NodeName(tree.Name)
		switch {
		case m.Name != "" && len(trees) == 1:
			name = m.Name
		case m.Name != "":
			name = m.Name + "-" + name
		}
		if !nodeName.MatchString(string(name)) || r.taken(name) {
			return fault.New(fault.BadInput, "serve "+m.Path, fmt.Sprintf("%q is no name for a server, or it is there twice", name)).
				WithHint("give it another: --mock NAME=DIR")
		}
		server, err := mock.NewServer(tree, bmcsim.DefaultPassword)
		if err != nil {
			return err
		}
		l, err := listen(ctx, ports[name])
		if err != nil {
			return fault.Wrap(fault.Unavailable, "listen for "+string(name), err)
		}
		r.mocks = append(r.mocks, recorded{name, server, l})
	}
	return nil
}

func (r *Rack) taken(name fleet.NodeName) bool {
	for _, m := range r.mocks {
		if m.name == name {
			return true
		}
	}
	return r.byName[name] != nil
}

// node is what a catalogue must know of a mock.
func (m recorded) node() Node {
	return Node{Name: m.name, Address: m.listener.Addr().String(), Pin: m.server.Pin(), Power: "recorded", Fault: string(bmcsim.NoFault)}
}

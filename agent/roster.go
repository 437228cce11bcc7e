package agent

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/chiba-mesh/chiba/pkg/fleet"
)

// roster is the nodes of the rack: its members, who are those of the catalogue and
// those that were let in since, and the strangers, BMCs that were found and are
// none. It is safe for concurrent use; a list that it gave out is never changed.
type roster struct {
	mu        sync.RWMutex
	list      []*node // members, those of the catalogue first and in its order
	names     map[fleet.NodeName]*node
	strangers map[string]*node // by key
	begin     func(*node)      // begins the work on a member; nil until the agent runs
}

// members are the nodes of the rack.
func (r *roster) members() []*node {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.list
}

// named is the member of that name, nil if there is none.
func (r *roster) named(name fleet.NodeName) *node {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.names[name]
}

// others are the strangers, by name.
func (r *roster) others() []*node {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make([]*node, 0, len(r.strangers))
	for _, n := range r.strangers {
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b *node) int { return strings.Compare(string(a.entry.Name), string(b.entry.Name)) })
	return all
}

// everybody are the members and the strangers.
func (r *roster) everybody() []*node { return append(slices.Clip(r.members()), r.others()...) }

// stranger is the one with that key, nil if there is none.
func (r *roster) stranger(pin string) *node {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.strangers[pin]
}

// taken reports whether a name is somebody's, but for the stranger with that key.
func (r *roster) taken(name fleet.NodeName, pin string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for key, n := range r.strangers {
		if n.entry.Name == name && key != pin {
			return true
		}
	}
	return r.names[name] != nil
}

// add makes n a member, and begins the work on it if the agent runs.
func (r *roster) add(n *node) {
	r.mu.Lock()
	if r.names == nil {
		r.names = make(map[fleet.NodeName]*node)
	}
	r.list = append(slices.Clone(r.list), n)
	r.names[n.entry.Name] = n
	delete(r.strangers, n.entry.Pin)
	begin := r.begin
	r.mu.Unlock()
	if begin != nil {
		begin(n)
	}
}

// remove ends the membership of n, and the work on it.
func (r *roster) remove(n *node) {
	r.mu.Lock()
	r.list = slices.DeleteFunc(slices.Clone(r.list), func(m *node) bool { return m == n })
	delete(r.names, n.entry.Name)
	r.mu.Unlock()
	if n.end != nil {
		n.end()
	}
}

// meet keeps a stranger.
func (r *roster) meet(n *node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.strangers == nil {
		r.strangers = make(map[string]*node)
	}
	r.strangers[n.entry.Pin] = n
}

// part takes leave of a stranger.
func (r *roster) part(n *node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.strangers, n.entry.Pin)
}

// start begins the work on every member, and on those that come later.
func (r *roster) start(begin func(*node)) {
	r.mu.Lock()
	r.begin = begin
	all := r.list
	r.mu.Unlock()
	for _, n := range all {
		begin(n)
	}
}

// stop ends the beginning of work on those that come: the reign is over.
func (r *roster) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begin = nil
}

// attendTo does the work on a member until ctx ends, or its membership does, which
// is no error. spawn runs a part of it and is waited for.
func (a *Agent) attendTo(ctx context.Context, n *node, spawn func(func() error)) {
	mine, end := context.WithCancel(ctx)
	n.end = end
	for _, part := range []func(context.Context, *node) error{a.shutOut, a.tend, a.takeOver, a.survey, a.hear} {
		spawn(func() error {
			err := part(mine, n)
			if mine.Err() != nil && ctx.Err() == nil {
				return nil
			}
			return err
		})
	}
}

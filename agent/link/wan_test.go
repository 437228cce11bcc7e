package link_test

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// wan is a UDP path that can be cut: it forwards datagrams between the agents
// and one coordinator, each agent by a socket of its own.
type wan struct {
	t     *testing.T
	near  *net.UDPConn
	far   *net.UDPAddr
	isCut atomic.Bool

	mu    sync.Mutex
	paths map[string]*net.UDPConn
	wg    sync.WaitGroup
}

func newWAN(t *testing.T, to string) *wan {
	t.Helper()
	far, err := net.ResolveUDPAddr("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	near, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	w := &wan{t: t, near: near, far: far, paths: make(map[string]*net.UDPConn)}
	w.wg.Go(w.forward)
	t.Cleanup(w.close)
	return w
}

func (w *wan) addr() string { return w.near.LocalAddr().String() }

func (w *wan) cut(on bool) { w.isCut.Store(on) }

func (w *wan) forward() {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := w.near.ReadFromUDP(buf)
		if err != nil {
			return
		}
		if path := w.path(from); path != nil && !w.isCut.Load() {
			_, _ = path.Write(buf[:n])
		}
	}
}

func (w *wan) path(from *net.UDPAddr) *net.UDPConn {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.paths[from.String()]; p != nil {
		return p
	}
	p, err := net.DialUDP("udp", nil, w.far)
	if err != nil {
		return nil
	}
	w.paths[from.String()] = p
	w.wg.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := p.Read(buf)
			if err != nil {
				return
			}
			if !w.isCut.Load() {
				_, _ = w.near.WriteToUDP(buf[:n], from)
			}
		}
	})
	return p
}

func (w *wan) close() {
	_ = w.near.Close()
	w.mu.Lock()
	for _, p := range w.paths {
		_ = p.Close()
	}
	w.mu.Unlock()
	w.wg.Wait()
}

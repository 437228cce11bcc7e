package mesh_test

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/chiba-mesh/chiba/pkg/mesh"
)

// A name server that hangs does not hold a dial for longer than its context.
func TestDialEndsWhileTheNameIsLookedUp(t *testing.T) {
	old := net.DefaultResolver
	defer func() { net.DefaultResolver = old }()
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if _, err := mesh.Dial(ctx, "coordinator.example:7443", &tls.Config{MinVersion: tls.VersionTLS13}); err == nil {
		t.Error("it was reached")
	}
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("it took %s", took)
	}
}

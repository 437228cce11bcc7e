package coordinator

import (
	"context"
	"crypto/x509"
	"time"
)

// EndOverdue is what the coordinator does every second, at a time of its own.
func (c *Coordinator) EndOverdue(ctx context.Context, then time.Time) { c.endOverdue(ctx, then) }

// RenewAt is what the coordinator does every hour, at a time of its own.
func (c *Coordinator) RenewAt(now time.Time) error { return c.renewAt(now) }

// Certificate is the one that it shows.
func (c *Coordinator) Certificate() *x509.Certificate { return c.trust.Credentials().Certificate.Leaf }

package coordinator

import (
	"context"
	"time"
)

// EndOverdue is what the coordinator does every second, at a time of its own.
func (c *Coordinator) EndOverdue(ctx context.Context, then time.Time) { c.endOverdue(ctx, then) }

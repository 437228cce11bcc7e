package stock

import (
	"context"
	"time"
)

func (s *Stock) Repair(ctx context.Context) { s.repair(ctx) }
func (s *Stock) Sweep(now time.Time)        { s.sweep(now) }

package main

import (
	"context"
	"time"
)

// spoolLook is how often the gateway looks whether "fieldbridge spool" has
// changed something.
const spoolLook = time.Second

// followSpool takes up what another process has put back into the spool's
// queues, until ctx is done. It returns nil.
func (g *gateway) followSpool(ctx context.Context) error {
	tick := time.NewTicker(spoolLook)
	defer tick.Stop()
	failing := false
	for stale := false; ; {
		g.looked.Store(new(g.spool.Stats()))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		changed, err := g.spool.Changed()
		// A change is told once: until it has been taken up it must not be
		// forgotten.
		if stale = stale || changed; err == nil && stale {
			var strangers int64
			if strangers, err = g.bridge.Recover(); err == nil {
				stale = false
				g.log.Info("spool changed by another process, taken up", "strangers", strangers)
			}
		}
		if err != nil && !failing {
			g.log.Error("changes by another process not taken up", "error", err, "retry_in", spoolLook)
		}
		failing = err != nil
	}
}

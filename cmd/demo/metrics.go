package main

import (
	"context"
	"sync"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
)

// hsmCalls is how many PKCS#11 calls the SPP has made.
func (d *demo) hsmCalls(ctx context.Context) (float64, error) {
	return d.Metric(ctx, "spp", "devicekeys_pkcs11_calls_total")
}

// watch shows a progress bar of devices that were shipped, as the SPP counts
// them, until done is called.
func (d *demo) watch(ctx context.Context) (done func()) {
	ctx, cancel := context.WithCancel(ctx)
	bar := console.Progress(d.io.Err, len(d.names), "devices shipped")
	var work sync.WaitGroup
	work.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for shown := 0; ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if n, err := d.Metric(ctx, "spp", "devicekeys_devices_total", `step="locked"`, `result="ok"`); err == nil && int(n) > shown {
				bar.Add(int(n) - shown)
				shown = int(n)
			}
		}
	})
	return func() {
		cancel()
		work.Wait()
		bar.Done()
	}
}

package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
)

// metric adds up the samples of a counter of a server, those whose labels
// contain every one of the given texts.
func (p *plant) metric(ctx context.Context, server, name string, labels ...string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.ports[server+" metrics"]+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	sum := 0.0
	lines := bufio.NewScanner(res.Body)
next:
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(rest, l) {
				continue next
			}
		}
		v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("metric %s: %w", name, err)
		}
		sum += v
	}
	return sum, lines.Err()
}

// hsmCalls is how many PKCS#11 calls the SPP has made.
func (d *demo) hsmCalls(ctx context.Context) (float64, error) {
	return d.metric(ctx, "spp", "devicekeys_pkcs11_calls_total")
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
			if n, err := d.metric(ctx, "spp", "devicekeys_devices_total", `step="locked"`, `result="ok"`); err == nil && int(n) > shown {
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

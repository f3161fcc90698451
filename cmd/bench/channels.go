package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/devicekeys/devicekeys/bench"
	"github.com/devicekeys/devicekeys/deviceservice/client"
)

func init() {
	benches = append(benches, bench.Bench{Name: "channels", Summary: "1,000 channels at once that stay up for a minute, and what each takes of memory", Long: true, Run: channels})
}

const (
	channelsOpen = 1000
	channelsTwo  = 2 // of each device: what a service allows
	channelsStay = time.Minute
	channelsAsk  = 10 * time.Second // between two requests of a channel
	channelsWait = 20 * time.Second // for one answer
)

// channels opens many and has each ask for the time now and then. One that breaks fails the row.
func channels(ctx context.Context, e *bench.Env) (rows []bench.Result, err error) {
	n := e.Size(channelsOpen, 10)
	stay := time.Duration(e.Size(int(channelsStay/time.Second), 1)) * time.Second
	err = with(ctx, e, order{devices: n / channelsTwo, service: true}, func(f *factory) (err error) {
		devices, stop, err := f.board(ctx, n/channelsTwo)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
		pid := f.Server(serviceName).PID()
		before, err := resident(pid)
		if err != nil {
			return err
		}
		open := make([]*client.Client, n)
		defer func() {
			for _, c := range open {
				if c != nil {
					_ = c.Close() // the row is over
				}
			}
		}()
		begun := time.Now()
		group, work := errgroup.WithContext(ctx)
		group.SetLimit(handshakeHands)
		for i := range open {
			group.Go(func() (err error) {
				open[i], err = client.Dial(work, f.Address(serviceName), devices[i%len(devices)])
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return fmt.Errorf("open %d channels: %w", n, err)
		}
		opened := time.Since(begun)
		end := time.Now().Add(stay)
		asking, work := errgroup.WithContext(ctx)
		for i, c := range open {
			asking.Go(func() error {
				time.Sleep(time.Duration(i) * channelsAsk / time.Duration(n)) // one after the other
				for {
					ctx, cancel := context.WithTimeout(work, channelsWait)
					_, err := c.Time(ctx)
					cancel()
					if err != nil {
						return fmt.Errorf("channel %d: %w", i+1, err)
					}
					if time.Now().After(end) {
						return nil
					}
					time.Sleep(min(channelsAsk, stay))
				}
			})
		}
		if err := asking.Wait(); err != nil {
			return err
		}
		after, err := resident(pid)
		if err != nil {
			return err
		}
		up, err := f.Metric(ctx, serviceName, "devicekeys_service_channels")
		if err != nil {
			return err
		}
		rows = []bench.Result{
			bench.Measured("channels", up, "channels").AtLeast(float64(n), float64(n)).Note("seconds", stay.Seconds()).Note("opened_in_seconds", opened.Seconds()),
			bench.Measured("channel-memory", float64(after-before)/float64(n), "KiB/channel").Note("service_before_kib", before).Note("service_after_kib", after),
		}
		return nil
	})
	return rows, err
}

// resident gives the memory that a process has in RAM, in KiB (proc(5), VmRSS).
func resident(pid int) (int, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, fmt.Errorf("memory of process %d: %w: this benchmark needs Linux's /proc", pid, err)
	}
	for line := range bytes.Lines(b) {
		var kib int
		if _, err := fmt.Sscanf(string(line), "VmRSS: %d kB", &kib); err == nil {
			return kib, nil
		}
	}
	return 0, fmt.Errorf("memory of process %d: its status does not say", pid)
}

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
)

// createDevices is the chip maker's work: n slots, each with chip ID, chip key
// and attestation key, and a signed delivery list of those that are new. It
// gives the lists that were written.
func (d *demo) createDevices(ctx context.Context, n int) (lists []string, err error) {
	devices := filepath.Join(d.dir, "devices")
	before, err := filepath.Glob(filepath.Join(devices, "chip-maker", "delivery-*"))
	if err != nil {
		return nil, err
	}
	if _, err := d.run(ctx, d.with("device", "fixtures"), nil, "create", "--devices", devices, "--count", strconv.Itoa(n)); err != nil {
		return nil, err
	}
	all, err := filepath.Glob(filepath.Join(devices, "chip-maker", "delivery-*"))
	if err != nil {
		return nil, err
	}
	for _, l := range all {
		if !slices.Contains(before, l) {
			lists = append(lists, l)
		}
	}
	d.names = d.names[:0]
	for i := range n {
		d.names = append(d.names, fmt.Sprintf("device-%04d", i+1))
	}
	return lists, nil
}

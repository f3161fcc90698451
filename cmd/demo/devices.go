package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
)

// createDevices is the chip maker's work: slots, n in all, each with chip ID,
// chip key and attestation key, and a signed delivery list of those that are
// new.
func (d *demo) createDevices(ctx context.Context, n int) (list string, err error) {
	var made struct {
		Delivery string `json:"delivery"`
	}
	if err := d.ask(ctx, d.with("device", "fixtures"), &made, "create", "--devices", filepath.Join(d.dir, "devices"), strconv.Itoa(n)); err != nil {
		return "", err
	}
	d.names = d.names[:0]
	for i := range n {
		d.names = append(d.names, fmt.Sprintf("device-%04d", i+1))
	}
	return made.Delivery, nil
}

package main

import "context"

// createDevices has the chip maker make slots, n in all.
func (d *demo) createDevices(ctx context.Context, n int) (list string, err error) {
	list, d.names, err = d.CreateDevices(ctx, "station", n)
	return list, err
}

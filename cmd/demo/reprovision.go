package main

import (
	"context"
	"errors"
	"fmt"
)

// stored is what a device's flash held.
type stored struct{ certificate, backup []byte }

// reprovision gives a shipped device a second generation: an operator's unlock
// statement, then once more through the line. What it had before is kept, to
// be offered to it again.
func (d *demo) reprovision(ctx context.Context) (string, error) {
	name := d.names[reprovided]
	record, err := d.takeOlder(ctx, name)
	if err != nil {
		return "", err
	}
	if _, err := d.Run(ctx, d.With("spp", "spp"), nil, "statement", "unlock", "--config", d.Etc("spp.yaml"),
		"--record", record, "--reason", "demo", "--operator", "demo"); err != nil {
		return "", err
	}
	if _, err := d.Run(ctx, d.With("station", "station"), nil, "run", "--config", d.Etc("station.yaml"), "--again", name); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s has generation 2", name), nil
}

func (d *demo) takeOlder(ctx context.Context, name string) (record string, err error) {
	b, err := d.openBench(ctx)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	h, err := b.hold(ctx, name)
	if err != nil {
		return "", err
	}
	d.older = stored{h.certificate, h.backup}
	return h.Record().String(), h.Close(ctx)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// shareBound is how long the line may take for a share of the devices: what an event may cost it, and a second
// a device, which is several times what a busy machine needs.
func shareBound(devices int) time.Duration {
	return resumeBound + time.Duration(devices)*time.Second
}

// trial runs the line and the events, and checks what is left. Each event has a share of the devices, and comes
// when a third of it is shipped.
func (f *factory) trial(ctx context.Context) (_ *report, err error) {
	w, err := f.watch(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.db.Close()) }()
	events := f.events()
	r, l := &report{Devices: len(f.names)}, newLine()
	for i, e := range events {
		share := f.names[i*len(f.names)/len(events) : (i+1)*len(f.names)/len(events)]
		err := f.step(e.title, func() error {
			res, err := f.disturbed(ctx, w, e, l, share)
			if err == nil {
				r.Events = append(r.Events, res)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.title, err)
		}
	}
	r.Runs, r.Looks = l.runs, w.failures
	return r, f.step("everything is checked", func() error { return f.verify(ctx, l, r) })
}

// disturbed assembles devices while an event strikes.
func (f *factory) disturbed(ctx context.Context, w *watch, e event, l *line, names []string) (Resumption, error) {
	ctx, cancel := context.WithTimeout(ctx, shareBound(len(names)))
	defer cancel()
	before, err := w.see(ctx)
	if err != nil {
		return Resumption{}, err
	}
	ended := make(chan struct{})
	w.ended = ended
	var lineErr error
	go func() {
		defer close(ended)
		lineErr = f.assemble(ctx, l, names)
	}()
	r, err := w.strike(ctx, e, before.shipped+len(names)/3)
	if err != nil {
		cancel()
	}
	<-ended
	return r, errors.Join(err, lineErr)
}

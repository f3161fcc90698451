package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/slots"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/station"
)

// workplace is the station's open parts: its token, its devices, the SPP.
type workplace struct {
	config Config
	module *hsm.Module
	rack   *chip.Rack
	slots  *slots.Slots
	client *station.Client
}

// openWorkplace reads the configuration and opens everything.
func openWorkplace(ctx context.Context, file console.ConfigFile, log *slog.Logger) (_ *workplace, err error) {
	w, err := openOffice(ctx, file, log)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	c := w.config
	path, err := c.Token.ModulePath(c.Realm)
	if err != nil {
		return nil, err
	}
	if w.rack, err = chip.OpenRack(ctx, path, c.Token.LockFile.String(), c.Realm); err != nil {
		return nil, err
	}
	if w.slots, err = slots.Open(ctx, c.Devices.String(), w.rack, slots.Options{Production: c.Realm == identity.Production, Logger: log}); err != nil {
		return nil, err
	}
	return w, nil
}

// openOffice reads the configuration and opens the station's own token and the
// way to the SPP, and no device. It comes before the rack: crypto11 must load
// the module before anyone else does.
func openOffice(ctx context.Context, file console.ConfigFile, log *slog.Logger) (_ *workplace, err error) {
	var c Config
	if err := console.LoadConfig(file.Config.String(), &c); err != nil {
		return nil, err
	}
	w := &workplace{config: c}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	module, token, err := tokenconfig.Open(ctx, c.Realm, c.Token, true)
	if err != nil {
		return nil, err
	}
	w.module = module
	tls, err := tokenconfig.ClientTLS(token, c.tlsKey(), c.Certificate.String(), c.SPP.CA.String())
	if err != nil {
		return nil, err
	}
	tokenconfig.RequirePeer(tls, c.Realm, "spp")
	w.client = station.NewClient(&http.Client{Transport: station.NewTransport(tls, c.Hands)}, c.SPP.bases()...)
	w.client.Logger = log
	return w, nil
}

func (w *workplace) close() error {
	var err error
	if w.rack != nil {
		err = w.rack.Close()
	}
	if w.module != nil {
		err = errors.Join(err, w.module.Close())
	}
	return err
}

// fixture gives a device as the line takes it.
func (w *workplace) fixture(name string) station.Fixture {
	return station.Fixture{Name: name, Open: func(ctx context.Context) (station.Device, error) { return w.slots.Device(ctx, name) }}
}

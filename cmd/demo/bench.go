package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"connectrpc.com/connect"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/slots"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
)

// bench is the fixtures in this process's hands: the devices, to be offered
// what they must refuse, and the station's token, to bring the SPP what it
// must refuse. This process uses no other token directory.
type bench struct {
	dir    string
	module *hsm.Module
	rack   *chip.Rack
	slots  *slots.Slots
	spp    provisioningrpc.AssemblyServiceClient
}

func (d *demo) openBench(ctx context.Context) (_ *bench, err error) {
	b := &bench{dir: d.Fixtures("station")}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	directory := d.HSM("station")
	if err := directory.Attach(); err != nil {
		return nil, err
	}
	c := tokenconfig.Config{Token: "dev-station", PINFile: console.Path(d.Etc("station.pin")), LockFile: console.Path(directory.LockFile()), Sessions: 2}
	module, token, err := tokenconfig.Open(ctx, identity.Development, c, true)
	if err != nil {
		return nil, err
	}
	b.module = module
	tls, err := tokenconfig.ClientTLS(token, tokenconfig.TLSKeyLabel(identity.Development, "station"), d.Etc("station.pem"), d.Public("station-ca.pem"))
	if err != nil {
		return nil, err
	}
	b.spp = provisioningrpc.NewAssemblyServiceClient(&http.Client{Transport: &http.Transport{TLSClientConfig: tls, ForceAttemptHTTP2: true}}, "https://"+d.Address("spp"))
	if b.rack, err = chip.OpenRack(ctx, directory.Module(), directory.LockFile(), identity.Development); err != nil {
		return nil, err
	}
	b.slots, err = slots.Open(ctx, b.dir, b.rack, slots.Options{})
	return b, err
}

func (b *bench) close() error {
	var err error
	if b.rack != nil {
		err = b.rack.Close()
	}
	if b.module != nil {
		err = errors.Join(err, b.module.Close())
	}
	return err
}

// held is a device on the bench with what its flash holds.
type held struct {
	*device.Device
	name                string
	certificate, backup []byte
}

func (b *bench) hold(ctx context.Context, name string) (*held, error) {
	d, err := b.slots.Device(ctx, name)
	if err != nil {
		return nil, err
	}
	h := &held{Device: d, name: name}
	if h.certificate, h.backup, err = d.Stored(ctx); err != nil {
		return nil, errors.Join(err, d.Close(ctx))
	}
	return h, nil
}

// refusedBy tells whether err is a refusal by a device or the SPP, and its
// code.
func refusedBy(err error) (reason string, refused bool) {
	var r interface{ Refused() string }
	if errors.As(err, &r) {
		return r.Refused(), true
	}
	var c *connect.Error
	if errors.As(err, &c) {
		for _, d := range c.Details() {
			if v, err := d.Value(); err == nil {
				if detail, ok := v.(*provisioningrpc.Refusal); ok {
					return detail.GetCode(), true
				}
			}
		}
	}
	return fmt.Sprint(err), false
}

// offer has the device do what it must refuse, and looks whether its flash
// image is, byte for byte, what it was.
func (b *bench) offer(h *held, what string, act func() error) (Refusal, error) {
	image := filepath.Join(b.dir, "slots", h.name, "flash.img")
	before, err := os.ReadFile(image)
	if err != nil {
		return Refusal{}, err
	}
	r := Refusal{Case: what}
	r.Reason, r.Refused = refusedBy(act())
	after, err := os.ReadFile(image)
	if err != nil {
		return Refusal{}, err
	}
	if !bytes.Equal(before, after) {
		r.Refused, r.Reason = false, "its flash has changed"
	}
	return r, nil
}

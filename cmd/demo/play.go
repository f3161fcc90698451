package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/plant"
	"github.com/devicekeys/devicekeys/station"
)

// demo is one performance.
type demo struct {
	*plant.Plant
	io     console.IO
	report Report
	names  []string // the devices, in order
	older  stored   // what one of them had before its second generation
}

// The devices with a part of their own.
const (
	lost       = 0 // its flash is wiped, its owner restores it
	other      = 1 // its backup is offered to the first
	reprovided = 2 // gets a second generation
)

// scene is one part of the performance. Its summary is printed when it is over.
type scene struct {
	title string
	do    func(context.Context) (summary string, err error)
}

func (d *demo) play(ctx context.Context) error {
	scenes := []scene{
		{"Postgres: a private cluster, three databases, roles", d.databases},
		{"keys: master, identity-signing, audit, CA …, in SoftHSM", d.keys},
		{"1    chips: a token slot for each device, delivery list", d.chips},
		{"     identities: a batch of test IMEIs", d.importIdentities},
		{"     key pairs and certificates, made in advance", d.keysInAdvance},
		{"     sequencer, registry, SPP and device service start", d.start},
		{"2–9  the line", d.assemble},
		{"     a device loses its flash; its owner restores it", d.recovery},
		{"     a device is provisioned anew, with an unlock statement", d.reprovision},
		{"     secure channels, after flash was lost and restored", d.channels},
		{"     a stranger writes to a device; it alone can read it", d.letter},
		{"     what must be refused", d.refusals},
		{"     every invariant, checked by the auditor", d.check},
	}
	for _, s := range scenes {
		fmt.Fprintf(d.io.Out, "%-58s ", s.title)
		start := time.Now()
		summary, err := s.do(ctx)
		if err != nil {
			fmt.Fprintln(d.io.Out, "✗")
			return err
		}
		fmt.Fprintf(d.io.Out, "%6.1f s  %s\n", time.Since(start).Seconds(), summary)
	}
	return nil
}

func (d *demo) databases(ctx context.Context) (string, error) {
	if err := d.StartPostgres(ctx); err != nil {
		return "", err
	}
	return "pool, records, registry", nil
}

func (d *demo) keys(ctx context.Context) (string, error) {
	if err := d.SetUp(ctx); err != nil {
		return "", err
	}
	var token struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := d.Ask(ctx, d.With("custodian", "spp"), &token, "show", "--config", d.Etc("custodian.yaml")); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d keys in the SPP's token", len(token.Keys)), nil
}

func (d *demo) chips(ctx context.Context) (string, error) {
	list, err := d.createDevices(ctx, d.Devices)
	if err != nil {
		return "", err
	}
	if err := d.ImportChips(ctx, list); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d chips", len(d.names)), nil
}

func (d *demo) importIdentities(ctx context.Context) (string, error) {
	imported, refused, err := d.ImportIdentities(ctx)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d imported, %d lines refused", imported, refused), nil
}

func (d *demo) start(ctx context.Context) (string, error) {
	if err := d.ServeAll(ctx); err != nil {
		return "", err
	}
	if err := d.ServeService(ctx); err != nil {
		return "", err
	}
	return "registry at http://" + d.Address("registry"), nil
}

// assemble runs the station over all devices.
func (d *demo) assemble(ctx context.Context) (string, error) {
	before, err := d.hsmCalls(ctx)
	if err != nil {
		return "", err
	}
	done := d.watch(ctx)
	start := time.Now()
	var r struct {
		Devices []station.Outcome `json:"devices"`
		Shipped int               `json:"shipped"`
	}
	err = d.Ask(ctx, d.With("station", "station"), &r, append([]string{"run", "--config", d.Etc("station.yaml")}, d.names...)...)
	took := time.Since(start)
	done()
	if err != nil {
		return "", err
	}
	after, err := d.hsmCalls(ctx)
	if err != nil {
		return "", err
	}
	d.report.Devices, d.report.Shipped, d.report.Restored = len(d.names), r.Shipped, r.Shipped
	d.report.Steps = stepTimes(r.Devices)
	d.report.RatePerHour = float64(r.Shipped) / took.Hours()
	d.report.CallsPerDevice = (after - before) / float64(max(r.Shipped, 1))
	return fmt.Sprintf("%d of %d shipped", r.Shipped, len(d.names)), nil
}

// recovery is the patent's figure 2: the owner has the device and the
// registry's address, and nothing else.
func (d *demo) recovery(ctx context.Context) (string, error) {
	name := d.names[lost]
	before, err := d.bootDevice(ctx, name)
	if err != nil {
		return "", err
	}
	device := d.With("device", "station")
	if _, err := d.Run(ctx, device, nil, d.on("wipe", name)...); err != nil {
		return "", err
	}
	empty, err := d.Run(ctx, device, []int{console.ExitRefused}, d.on("boot", name)...)
	if err != nil {
		return "", err
	}
	if empty.Code != console.ExitRefused {
		return "", fmt.Errorf("device %s boots without its flash", name)
	}
	if _, err := d.Run(ctx, device, nil, append(d.on("restore", name), "--registry", "http://"+d.Address("registry"))...); err != nil {
		return "", err
	}
	after, err := d.bootDevice(ctx, name)
	if err != nil {
		return "", err
	}
	if before != after {
		return "", fmt.Errorf("device %s was %s and is %s after it was restored", name, before, after)
	}
	// The same keys: the SPP's HSM derives them again and checks a fresh answer.
	if _, err := d.Run(ctx, d.With("station", "station"), nil, "prove", "--config", d.Etc("station.yaml"), name); err != nil {
		return "", err
	}
	d.report.Restored++
	return "IMEI " + after + ", same keys", nil
}

// bootDevice boots a device and gives its identity.
func (d *demo) bootDevice(ctx context.Context, name string) (string, error) {
	var booted struct {
		Identity string `json:"identity"`
	}
	err := d.Ask(ctx, d.With("device", "station"), &booted, d.on("boot", name)...)
	return booted.Identity, err
}

// on gives the arguments of a device command.
func (d *demo) on(command, name string) []string {
	return []string{command, "--devices", d.Fixtures("station"), name}
}

func (d *demo) check(ctx context.Context) (string, error) {
	var r struct {
		Invariants []struct {
			Invariant
			Text string `json:"text"`
		} `json:"invariants"`
	}
	if err := d.Ask(ctx, d.With("auditor", "spp"), &r, "check", "--config", d.Etc("auditor.yaml"), "--token"); err != nil {
		return "", err
	}
	holds := 0
	for _, i := range r.Invariants {
		i.Invariant.Text = i.Text
		d.report.Invariants = append(d.report.Invariants, i.Invariant)
		if i.Holds {
			holds++
		}
	}
	return strconv.Itoa(holds) + " of " + strconv.Itoa(len(r.Invariants)) + " hold", nil
}

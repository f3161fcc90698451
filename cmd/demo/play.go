package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/station"
)

// demo is one performance.
type demo struct {
	*plant
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
		{"     sequencer, registry and SPP start", d.start},
		{"2–9  the line", d.assemble},
		{"     a device loses its flash; its owner restores it", d.recovery},
		{"     a device is provisioned anew, with an unlock statement", d.reprovision},
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
	if err := d.startPostgres(ctx); err != nil {
		return "", err
	}
	return "pool, records, registry", nil
}

func (d *demo) keys(ctx context.Context) (string, error) {
	if err := d.setUpKeys(ctx); err != nil {
		return "", err
	}
	var token struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := d.ask(ctx, d.with("custodian", "spp"), &token, "show", "--config", d.etc("custodian.yaml")); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d keys in the SPP's token", len(token.Keys)), nil
}

func (d *demo) chips(ctx context.Context) (string, error) {
	list, err := d.createDevices(ctx, d.devices)
	if err != nil {
		return "", err
	}
	if _, err := d.run(ctx, d.with("spp", "spp"), nil, "chips", "import", "--config", d.etc("spp.yaml"), list); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d chips", len(d.names)), nil
}

func (d *demo) importIdentities(ctx context.Context) (string, error) {
	var imported struct {
		Imported int
		Refused  []struct{ Line int }
	}
	err := d.ask(ctx, d.with("spp", "spp"), &imported, "pool", "import", "--config", d.etc("spp.yaml"), "--batch", "demo", "--line", productLine, "--skip-refused", d.etc("imeis.csv"))
	if err != nil {
		return "", err
	}
	if want := 3; len(imported.Refused) != want {
		return "", fmt.Errorf("%d lines of the file were refused, %d are wrong in it", len(imported.Refused), want)
	}
	return fmt.Sprintf("%d imported, %d lines refused", imported.Imported, len(imported.Refused)), nil
}

func (d *demo) start(ctx context.Context) (string, error) {
	for _, s := range []struct{ name, hsm string }{{"sequencer", "sequencer"}, {"registry", ""}, {"spp", "spp"}} {
		if err := d.serve(ctx, d.with(s.name, s.hsm), d.health(s.name), "serve", "--config", d.etc(s.name+".yaml")); err != nil {
			return "", err
		}
	}
	return "registry at http://" + d.ports["registry"], nil
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
	err = d.ask(ctx, d.with("station", "fixtures"), &r, append([]string{"run", "--config", d.etc("station.yaml")}, d.names...)...)
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
	device := d.with("device", "fixtures")
	if _, err := d.run(ctx, device, nil, d.on("wipe", name)...); err != nil {
		return "", err
	}
	empty, err := d.run(ctx, device, []int{console.ExitRefused}, d.on("boot", name)...)
	if err != nil {
		return "", err
	}
	if empty.code != console.ExitRefused {
		return "", fmt.Errorf("device %s boots without its flash", name)
	}
	if _, err := d.run(ctx, device, nil, append(d.on("restore", name), "--registry", "http://"+d.ports["registry"])...); err != nil {
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
	if _, err := d.run(ctx, d.with("station", "fixtures"), nil, "prove", "--config", d.etc("station.yaml"), name); err != nil {
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
	err := d.ask(ctx, d.with("device", "fixtures"), &booted, d.on("boot", name)...)
	return booted.Identity, err
}

// on gives the arguments of a device command.
func (d *demo) on(command, name string) []string {
	return []string{command, "--devices", filepath.Join(d.dir, "devices"), name}
}

func (d *demo) check(ctx context.Context) (string, error) {
	var r struct {
		Invariants []struct {
			Invariant
			Text string `json:"text"`
		} `json:"invariants"`
	}
	if err := d.ask(ctx, d.with("auditor", "spp"), &r, "check", "--config", d.etc("auditor.yaml"), "--token"); err != nil {
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

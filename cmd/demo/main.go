// Command demo runs the whole of Devicekeys on real parts: a private Postgres
// with three databases, an SPP and a sequencer with their keys in SoftHSM, a
// registry over HTTP, devices that are PKCS#11 token slots of their own. It
// assembles the devices, loses the flash of one and restores it, shows what is
// refused and why, and checks every invariant. What it says happened, happened:
// each step runs the programs that one would run.
package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/plant"
)

const description = `The assembly line end to end, on real parts: from chip in to device shipped, one device's flash lost and
restored, every refusal and every invariant shown. It makes everything anew below its folder and stops all it started.`

const session = `$ make demo                # 200 devices
$ make demo DEVICES=1000
$ make demo KEEP=1         # leaves the servers running
$ bin/demo --stop          # and ends them`

type cli struct {
	Run demoCmd `cmd:"" default:"withargs" help:"Run the demo (default)."`
}

type demoCmd struct {
	Devices int    `name:"devices" env:"DEVICES" default:"200" placeholder:"N" help:"Devices to assemble, 3 to 100000 (default 200)."`
	Keep    bool   `name:"keep" env:"KEEP" help:"Leave the servers running and say where they listen."`
	Dir     string `name:"dir" default:"var/demo" placeholder:"DIR" help:"Folder of the demo (default var/demo); made anew."`
	Stop    bool   `name:"stop" help:"Stop what a demo with --keep left running, and do nothing else."`
}

func main() {
	console.Main("demo", description, &cli{}, console.Examples(session))
}

// Run runs the demo, or stops a kept one.
func (c *demoCmd) Run(ctx context.Context, io console.IO) (err error) {
	if c.Stop {
		return plant.StopKept(ctx, c.Dir)
	}
	if c.Devices < 3 || c.Devices > 100000 {
		return console.Usagef("devices is %d: 3 to 100000 are possible", c.Devices)
	}
	p, err := plant.New(ctx, plant.Config{Dir: c.Dir, Name: "demo", Devices: c.Devices, Pairs: "pool", Service: true})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil || !c.Keep {
			err = errors.Join(err, p.Stop())
		}
	}()
	start := time.Now()
	d := &demo{Plant: p, io: io}
	if err := d.play(ctx); err != nil {
		return console.Hint(err, "every command and its messages are in %s/log", c.Dir)
	}
	if err := d.report.write(p.Dir); err != nil {
		return err
	}
	fmt.Fprint(io.Out, d.report)
	fmt.Fprintf(io.Out, "\n%s in all; the report is %s/report.json, every command is in %s/log/commands.log\n", time.Since(start).Round(100*time.Millisecond), c.Dir, c.Dir)
	if err := d.report.failed(); err != nil {
		return err
	}
	if c.Keep {
		return d.leave(c.Dir)
	}
	return nil
}

// leave keeps the servers and tells where they are.
func (d *demo) leave(dir string) error {
	t := console.NewTable(console.Columns("server", "address", "what")...)
	t.Row("registry", "http://"+d.Address("registry"), "GET /records/{record id}, /openapi.json")
	t.Row("spp", "https://"+d.Address("spp"), "stations, mutual TLS")
	t.Row("sequencer", "https://"+d.Address("sequencer"), "the SPP, mutual TLS")
	t.Row("deviceservice", d.Address("deviceservice"), "devices, the secure channel")
	for _, s := range []string{"registry", "spp", "sequencer", "deviceservice"} {
		t.Row(s, "http://"+d.Address(s+" metrics")+"/metrics", "metrics and health")
	}
	t.Row("postgres", d.Postgres.SocketDir(), "PGPASSFILE="+d.Postgres.Passfile()+" psql -h "+d.Postgres.SocketDir()+" -U postgres records")
	if err := d.Keep(); err != nil {
		return err
	}
	fmt.Fprintf(d.io.Out, "\nstill running:\n\n%s\nto stop them: bin/demo --stop --dir %s\n", t, dir)
	return nil
}

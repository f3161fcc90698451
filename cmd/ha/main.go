// Command ha assembles devices while the Postgres beneath the line fails over. It sets up a plant
// whose three databases are on a cluster of three (deploy/ha), kills the leader in the middle
// of the work, twice, then the synchronous standby, then has the lead handed over; the
// killed nodes rejoin. In the end every device must be shipped, everything that a station was told
// is published must be in the registry, and every invariant must hold. It says how long the
// line stood still.
//
// The parts of this program:
//
//	factory   the plant and the cluster beneath it
//	line      the station's work, again until all is shipped
//	events    what is done to the cluster, and how long it took
//	verify    what must hold in the end
package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/deploy/ha"
	"github.com/devicekeys/devicekeys/untested"
)

const description = `The assembly line on a Postgres cluster of three (Patroni, etcd) whose leader is killed while devices are assembled.
Nothing that was acknowledged may be lost; how long the line stood still is printed. It makes everything anew below its
folders and stops and removes all it started; what a killed one left, the next one removes.`

const session = `$ make ha                   # 600 devices
$ make ha DEVICES=1000
$ bin/ha hold               # the cluster alone, for you to try things on; ctrl-C ends it`

type cli struct {
	Run  runCmd  `cmd:"" default:"withargs" help:"Assemble devices and break the cluster (default)."`
	Hold holdCmd `cmd:"" help:"Run the cluster with its databases, and nothing on it, until ctrl-C."`
}

// shape is what both commands ask.
type shape struct {
	Dir     string `name:"dir" default:"var/ha" placeholder:"DIR" help:"Folder of the plant (default var/ha); made anew."`
	Servers string `name:"servers" default:"var/ha-servers" placeholder:"DIR" help:"Folder of the cluster (default var/ha-servers, or one in /var/tmp where the servers' user can't reach that); made anew and removed."`
}

type runCmd struct {
	shape
	console.Output
	Devices int `name:"devices" env:"DEVICES" default:"600" placeholder:"N" help:"Devices to assemble, 100 to 100000 (default 600)."`
}

type holdCmd struct{ shape }

func main() { console.Main("ha", description, &cli{}, console.Examples(session)) }

// skip says loudly that nothing was tested, and passes; in CI it fails.
func skip(io console.IO, err error) error {
	if !errors.Is(err, ha.ErrNotInstalled) || untested.Forbidden() {
		return err
	}
	fmt.Fprintf(io.Err, "\n"+untested.Mark+"%v\n\n", err)
	return nil
}

// Run runs the trial.
func (c *runCmd) Run(ctx context.Context, io console.IO) (err error) {
	if c.Devices < 100 || c.Devices > 100000 {
		return console.Usagef("devices is %d: 100 to 100000 are possible, fewer are done before the last event", c.Devices)
	}
	if err := ha.Installed(); err != nil {
		return skip(io, err)
	}
	f, err := build(ctx, io, c.shape, c.Devices)
	if err != nil {
		return skip(io, console.Hint(err, "every command and its messages are in %s/log", c.Dir))
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	r, err := f.trial(ctx)
	if err != nil {
		return console.Hint(err, "every command and its messages are in %s/log", c.Dir)
	}
	if err := r.write(f.Dir); err != nil {
		return err
	}
	return errors.Join(c.Print(io.Out, r), r.failed())
}

// Run runs the cluster alone.
func (c *holdCmd) Run(ctx context.Context, io console.IO) (err error) {
	if err := ha.Installed(); err != nil {
		return skip(io, err)
	}
	f, err := begin(ctx, io, c.shape, 0)
	if err != nil {
		return skip(io, err)
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	if err := f.cluster(ctx); err != nil {
		return err
	}
	fmt.Fprintf(io.Out, "\n%s list\ndsn: %s\npassword_file: %s\n\nctrl-C ends and removes it\n", f.ha.Control(), f.ha.DSN("records", "auditor"), f.password("auditor"))
	<-ctx.Done()
	return nil
}

// stopBound bounds the end: servers that drain, and the cluster.
const stopBound = 2 * time.Minute

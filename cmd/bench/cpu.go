package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/devicekeys/devicekeys/bench"
	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/softhsm/raw"
)

func init() {
	benches = append(benches, bench.Bench{Name: "spp-cpu", Summary: "the SPP's CPU for a device, against that of the same cryptographic operations made raw", Run: sppCPU})
}

// cpuDevices are those of a round: enough that a tick of the kernel's counting is below a hundredth.
const cpuDevices = 300

// sppCPU compares the SPP's process with a process that does nothing but a device's operations, through miekg, from one
// thread, on a copy of the SPP's token.
func sppCPU(ctx context.Context, e *bench.Env) (rows []bench.Result, err error) {
	n := e.Size(cpuDevices, 20)
	all := warmUp + (e.Rounds+2)*n // a round to count, one to warm up
	err = with(ctx, e, order{devices: all}, func(f *factory) error {
		spp := f.SPPNames()[0]
		token, err := f.copyToken(spp, "raw")
		if err != nil {
			return err
		}
		c, err := f.crew(ctx, spp)
		if err != nil {
			return err
		}
		defer c.close()
		units, err := f.units(ctx, all)
		if err != nil {
			return err
		}
		if _, err := c.ship(ctx, units[:warmUp], flight, nil); err != nil {
			return err
		}
		units = units[warmUp:]
		share, err := f.submissions(ctx, c, units[:n])
		if err != nil {
			return err
		}
		units = units[n:]
		product := func(ctx context.Context) (float64, error) {
			var taken []*unit
			taken, units = units[:n], units[n:]
			return f.cpuOf(ctx, c, spp, taken)
		}
		var loop rawResult
		bound := func(ctx context.Context) (float64, error) {
			loop, err = f.raw(ctx, token, rawCmd{Devices: n, Share: share})
			return loop.CPU, err
		}
		compared, err := bench.Compare(ctx, e.Rounds, product, bound)
		if err != nil {
			return err
		}
		rows = []bench.Result{bench.Compared("spp-cpu", "ms CPU/device", "the same cryptographic operations made raw through miekg, one thread", compared).AtMost(2.0, 1.5).
			Note("raw_calls_per_device", perDevice(loop.Calls, n)).Note("submissions_per_device", share).Note("devices_each_round", n).Note("in_flight", flight)}
		return nil
	})
	return rows, err
}

// cpuOf gives the milliseconds of CPU that an SPP uses for each of some devices.
func (f *factory) cpuOf(ctx context.Context, c *crew, spp string, units []*unit) (float64, error) {
	pid := f.Server(spp).PID()
	before, err := cpu(pid)
	if err != nil {
		return 0, err
	}
	if _, err := c.ship(ctx, units, flight, nil); err != nil {
		return 0, err
	}
	after, err := cpu(pid)
	return float64((after - before).Microseconds()) / 1000 / float64(len(units)), err
}

// submissions takes devices through the line and tells how many submissions the SPP signs for each, once it has made
// sure by its own counters that it does for a device what the raw loop does.
func (f *factory) submissions(ctx context.Context, c *crew, units []*unit) (float64, error) {
	before, err := f.counters(ctx)
	if err != nil {
		return 0, err
	}
	if _, err := c.ship(ctx, units, flight, nil); err != nil {
		return 0, err
	}
	after, err := f.counters(ctx)
	if err != nil {
		return 0, err
	}
	made := map[string]uint64{}
	for name, n := range after {
		made[name] = n - before[name]
	}
	// The SPP counts each C_WrapKey, the one for the size too where it makes that.
	if n, needed := made["C_WrapKey"], raw.Needs()["C_WrapKey"]*len(units); n >= uint64(2*needed) {
		made["C_WrapKey"] = n / 2
	}
	if err := same(made, len(units)); err != nil {
		return 0, err
	}
	return max(float64(made["C_SignInit"])/float64(len(units))-float64(raw.Needs()["C_SignInit"]), 0), nil
}

// counters reads the operations that an SPP has counted.
func (f *factory) counters(ctx context.Context) (map[string]uint64, error) {
	counts := map[string]uint64{}
	for _, name := range operations {
		n, err := f.Metric(ctx, f.SPPNames()[0], "devicekeys_pkcs11_calls_total", `"`+name+`"`)
		if err != nil {
			return nil, err
		}
		counts[name] = uint64(n)
	}
	return counts, nil
}

// copyToken copies an SPP's token directory, for another process to work on.
func (f *factory) copyToken(spp, name string) (*softhsm.Directory, error) {
	dir := filepath.Join(f.env.Dir, name)
	d, err := softhsm.NewDirectory(dir)
	if err != nil {
		return nil, err
	}
	tokens := filepath.Join(dir, "tokens")
	if err := os.Remove(tokens); err != nil { // CopyFS makes it
		return nil, err
	}
	return d, os.CopyFS(tokens, os.DirFS(filepath.Join(f.HSM(spp).Path(), "tokens")))
}

// raw runs the hidden command in a process of its own.
func (f *factory) raw(ctx context.Context, d *softhsm.Directory, c rawCmd) (rawResult, error) {
	executable, err := os.Executable()
	if err != nil {
		return rawResult{}, err
	}
	cmd := exec.CommandContext(ctx, executable, "raw", "--module", d.Module(), "--pin", f.Etc(f.SPPNames()[0]+".pin"),
		"--devices", fmt.Sprint(c.Devices), "--share", fmt.Sprint(c.Share), "--fill", fmt.Sprint(c.Fill))
	cmd.Env, cmd.Stderr = d.Env(), f.env.Err
	out, err := cmd.Output()
	if err != nil {
		return rawResult{}, fmt.Errorf("the raw calls: %w", err)
	}
	var r rawResult
	return r, json.Unmarshal(out, &r)
}

// rawCmd makes devices' operations raw, in this process, on the token directory that SOFTHSM2_CONF names.
type rawCmd struct {
	Module  string       `name:"module" required:"" placeholder:"FILE" help:"PKCS#11 module."`
	PIN     console.Path `name:"pin" required:"" placeholder:"FILE" help:"File with the PIN of token dev-spp."`
	Devices int          `name:"devices" placeholder:"N" help:"Devices."`
	Share   float64      `name:"share" placeholder:"X" help:"Submissions signed for each device."`
	Fill    int          `name:"fill" placeholder:"N" help:"Before that, make keys that nobody uses."`
}

// rawResult is what the process says.
type rawResult struct {
	CPU   float64           `json:"cpu_ms"` // of this process, for each device
	Calls map[string]uint64 `json:"calls"`  // size queries included
	Grown int64             `json:"grown"`  // bytes of resident memory that it has more at the end than after rawWarmUp
}

// rawWarmUp devices come before the clock is looked at.
const rawWarmUp = 10

func (c *rawCmd) Run(_ context.Context, io console.IO) (err error) {
	pin, err := secret.ReadFile(c.PIN.String())
	if err != nil {
		return err
	}
	loop, err := raw.Open(raw.Config{
		Module: c.Module, Token: "dev-spp", PIN: pin,
		Purpose: "dev-purpose-channel-1", Seal: "dev-pool-seal", Identity: "dev-identity-signing", Submission: "dev-submission",
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, loop.Close()) }()
	if err := loop.Fill(c.Fill, "dev-fill-", func() {}); err != nil {
		return err
	}
	if c.Devices == 0 {
		return json.NewEncoder(io.Out).Encode(rawResult{Calls: loop.Calls()})
	}
	for range rawWarmUp {
		if err := loop.Device(true); err != nil {
			return err
		}
	}
	clear(loop.Calls())
	held, err := resident(os.Getpid())
	if err != nil {
		return err
	}
	before := ownCPU()
	due := 0.0
	for range c.Devices {
		due += c.Share
		submit := due >= 1
		if submit {
			due--
		}
		if err := loop.Device(submit); err != nil {
			return err
		}
	}
	used := ownCPU() - before
	holds, err := resident(os.Getpid())
	if err != nil {
		return err
	}
	return json.NewEncoder(io.Out).Encode(rawResult{CPU: float64(used) / float64(time.Millisecond) / float64(c.Devices), Calls: loop.Calls(), Grown: int64(holds-held) << 10})
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/devicekeys/devicekeys/bench"
	"github.com/devicekeys/devicekeys/cmd/internal/plant"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/statement"
)

// factory is a plant whose stations are in this process.
type factory struct {
	*plant.Plant
	env   *bench.Env
	maker statement.SoftwareKey // signs delivery lists of software chips
	shim  *softhsm.Shim         // before the SPPs' tokens; nil: none
	lists int                   // delivery lists imported
	crews int                   // station certificates made
}

// order says what factory to build.
type order struct {
	devices    int    // of the whole benchmark
	spps       int    // 0 means 1
	sessions   int    // of each SPP; 0: what a plant's have
	shim       bool   // the SPPs' calls go through one
	tokenChips bool   // the device program's chip maker delivers, not this process's
	pairs      string // source of the devices' key pairs; "": they have none
	service    bool   // there is a device service
	// prepare is called before the servers start; nil: nothing is.
	prepare func(context.Context, *plant.Plant) error
}

// plantSessions is how many sessions a plant's SPP has, as it stands in its configuration.
const plantSessions = "sessions: 16"

// build makes a factory and starts it.
func build(ctx context.Context, e *bench.Env, o order) (_ *factory, err error) {
	f := &factory{env: e}
	c := plant.Config{Dir: filepath.Join(e.Dir, "plant"), Programs: e.Programs, Name: "bench", Devices: o.devices, SPPs: max(o.spps, 1), Pairs: o.pairs, Service: o.service}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.stop())
		}
	}()
	if err := complete(c.Programs); err != nil {
		return nil, err
	}
	if o.shim {
		if f.shim, err = softhsm.BuildShim(ctx, filepath.Join(e.Dir, "shim")); err != nil {
			return nil, err
		}
		for range c.SPPs {
			c.Modules = append(c.Modules, plant.Module{Path: f.shim.Module(), Env: f.shim.Env()})
		}
	}
	if f.maker, err = statement.GenerateSoftwareKey(); err != nil {
		return nil, err
	}
	if f.Plant, err = plant.New(ctx, c); err != nil {
		return nil, err
	}
	if err := f.StartPostgres(ctx); err != nil {
		return nil, err
	}
	if err := f.SetUp(ctx); err != nil {
		return nil, err
	}
	if err := f.configure(o); err != nil {
		return nil, err
	}
	if _, _, err := f.ImportIdentities(ctx); err != nil {
		return nil, err
	}
	if o.prepare != nil {
		if err := o.prepare(ctx, f.Plant); err != nil {
			return nil, err
		}
	}
	if err := f.ServeAll(ctx); err != nil || !o.service {
		return f, err
	}
	return f, f.ServeService(ctx)
}

// complete makes sure that the product's programs are there before anything is started.
func complete(programs string) error {
	for _, name := range []string{"custodian", "deviceservice", "registry", "sequencer", "spp"} {
		if _, err := os.Stat(filepath.Join(programs, name)); err != nil {
			return fmt.Errorf("the product's programs belong beside this one (make build): %w", err)
		}
	}
	return nil
}

// configure writes what the plant leaves open: the chip maker's public key, and how many sessions an SPP has.
func (f *factory) configure(o order) error {
	if public := f.ChipMaker(f.StationNames()[0]); !o.tokenChips {
		if err := os.MkdirAll(filepath.Dir(public), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(public, f.maker.Public().PEM(), 0o600); err != nil {
			return err
		}
	}
	if o.sessions == 0 {
		return nil
	}
	for _, spp := range f.SPPNames() {
		file := f.Etc(spp + ".yaml")
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		text := string(b)
		if strings.Count(text, plantSessions) != 1 {
			return fmt.Errorf("set the sessions of %s: its configuration doesn't say %q once", spp, plantSessions)
		}
		if err := os.WriteFile(file, []byte(strings.Replace(text, plantSessions, fmt.Sprintf("sessions: %d", o.sessions), 1)), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// stop ends the factory. What a crash leaves running is ended by the next benchmark of this name.
func (f *factory) stop() error {
	var all error
	if f.Plant != nil {
		all = f.Stop()
	}
	if f.shim != nil {
		all = errors.Join(all, f.shim.Close())
	}
	return all
}

// with builds a factory, runs f and stops it.
func with(ctx context.Context, e *bench.Env, o order, run func(*factory) error) (err error) {
	f, err := build(ctx, e, o)
	if err != nil {
		return fmt.Errorf("build a factory: %w", err)
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	return run(f)
}

// operations are the functions whose calls make up a device's cryptographic work; of those with an Init, that.
var operations = []string{
	"C_DecryptInit", "C_DeriveKey", "C_DigestInit", "C_EncryptInit", "C_GenerateKey", "C_GenerateKeyPair",
	"C_SignInit", "C_UnwrapKey", "C_VerifyInit", "C_WrapKey",
}

// perDevice divides counts of calls by devices, rounded to a hundredth.
func perDevice(counts map[string]uint64, devices int) map[string]float64 {
	each := map[string]float64{}
	for name, n := range counts {
		each[name] = float64(int(float64(n)/float64(devices)*100+0.5)) / 100
	}
	return each
}

func total(counts map[string]uint64) uint64 {
	var sum uint64
	for _, n := range counts {
		sum += n
	}
	return sum
}

// isOperation tells whether a function is one of operations.
func isOperation(name string) bool { return slices.Contains(operations, name) }

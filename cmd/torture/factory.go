package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/plant"
)

// factory is a plant with its devices and what may break.
type factory struct {
	*plant.Plant
	io       console.IO
	software bool
	hands    int
	devices  map[string][]string // station → its devices' names
	shims    map[string]*shim    // by SPP; none where they can't be built
	shimDir  string              // of shims
	backups  map[string]string   // token directory → a copy of its tokens
}

// order is what factory to build.
type order struct {
	plant.Config
	software bool
	hands    int
	shims    bool
}

// build makes the factory and starts it.
func build(ctx context.Context, io console.IO, o order) (_ *factory, err error) {
	f := &factory{io: io, software: o.software, hands: o.hands, devices: map[string][]string{}, shims: map[string]*shim{}, backups: map[string]string{}}
	if f.shimDir, err = os.MkdirTemp("", "devicekeys-torture-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.stop())
		}
	}()
	if o.shims {
		for i := range max(o.SPPs, 1) {
			s, err := newShim(ctx, filepath.Join(f.shimDir, fmt.Sprint(i)))
			if err != nil {
				return nil, err
			}
			o.Modules = append(o.Modules, s.forProgram())
			f.shims[fmt.Sprint(i)] = s
		}
	}
	if f.Plant, err = plant.New(ctx, o.Config); err != nil {
		return nil, err
	}
	for i, spp := range f.SPPNames() {
		if s := f.shims[fmt.Sprint(i)]; s != nil {
			delete(f.shims, fmt.Sprint(i))
			f.shims[spp] = s
		}
	}
	if err := f.StartPostgres(ctx); err != nil {
		return nil, err
	}
	if err := f.SetUp(ctx); err != nil {
		return nil, err
	}
	if err := f.makeDevices(ctx); err != nil {
		return nil, err
	}
	if _, _, err := f.ImportIdentities(ctx); err != nil {
		return nil, err
	}
	for _, name := range append(f.SPPNames(), "sequencer") {
		if err := f.backUp(name); err != nil {
			return nil, err
		}
	}
	return f, f.ServeAll(ctx)
}

// makeDevices shares the devices out among the stations.
func (f *factory) makeDevices(ctx context.Context) error {
	bar := console.Progress(f.io.Err, f.Devices, "devices made")
	defer bar.Done()
	for i, station := range f.StationNames() {
		n := f.Devices / f.Stations
		if i < f.Devices%f.Stations {
			n++
		}
		if n == 0 {
			continue
		}
		var list string
		var err error
		if f.software {
			f.devices[station] = plant.DeviceNames(n)
			list, err = makeChips(ctx, softwareBench{f.Fixtures(station)}, f.devices[station], f.ChipMaker(station), bar.Add)
		} else {
			list, f.devices[station], err = f.CreateDevices(ctx, station, n)
			bar.Add(n)
		}
		if err != nil {
			return err
		}
		if err := f.ImportChips(ctx, list); err != nil {
			return err
		}
		if err := f.writeLine(station); err != nil {
			return err
		}
	}
	return nil
}

// writeLine writes a software station's configurations, one for each SPP.
func (f *factory) writeLine(station string) error {
	for _, spp := range f.SPPNames() {
		var urls []string
		for _, known := range f.Knows(station, spp) {
			urls = append(urls, "https://"+f.Link("stations/"+known).Addr())
		}
		b, err := json.Marshal(lineConfig{
			URLs: urls, CA: f.Public("station-ca.pem"), PIN: f.Etc(station + ".pin"), Lock: f.HSM(station).LockFile(),
			Certificate: f.Etc(station + ".pem"), Fixtures: f.Fixtures(station), Modules: f.ModuleDir(),
			Journal: filepath.Join(f.Dir, "journal"+strings.TrimPrefix(station, "station")), Hands: f.hands,
		})
		if err != nil {
			return err
		}
		if err := os.WriteFile(f.lineConfig(station, spp), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (f *factory) lineConfig(station, spp string) string {
	return strings.TrimSuffix(f.StationConfig(station, spp), ".yaml") + ".json"
}

// station gives the program and arguments of a station's run over devices.
func (f *factory) station(station, spp string, devices []string) (plant.Program, []string) {
	if f.software {
		return f.With("torture", station), append([]string{"line", "--log-level", "error", "--config", f.lineConfig(station, spp)}, devices...)
	}
	return f.With("station", station), append([]string{"run", "--json", "--log-level", "error", "--config", f.StationConfig(station, spp)}, devices...)
}

// bench opens a station's devices.
func (f *factory) bench(ctx context.Context, station string) (bench, error) {
	if f.software {
		return softwareBench{f.Fixtures(station)}, nil
	}
	return openTokenBench(ctx, f.Fixtures(station), f.HSM(station))
}

// backUp copies a token directory, whose keys don't change any more. SoftHSM rewrites a token's file at each
// login, and a kill at that moment may cost the token; the custodian's guide has the same copy.
func (f *factory) backUp(name string) error {
	backup := f.HSM(name).Path() + "-backup"
	f.backups[name] = backup
	return os.CopyFS(backup, os.DirFS(filepath.Join(f.HSM(name).Path(), "tokens")))
}

// stop ends the factory.
func (f *factory) stop() error {
	var all error
	if f.Plant != nil {
		all = f.Stop()
	}
	for _, s := range f.shims {
		all = errors.Join(all, s.close())
	}
	return errors.Join(all, os.RemoveAll(f.shimDir))
}

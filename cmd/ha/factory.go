package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/plant"
	"github.com/devicekeys/devicekeys/deploy/ha"
	"github.com/devicekeys/devicekeys/deploy/postgres"
)

// factory is a plant whose databases are on a cluster.
type factory struct {
	*plant.Plant
	io      console.IO
	ha      *ha.Cluster // nil until it runs
	servers string      // folder of private server and cluster
	names   []string    // the devices
}

const (
	stationName = "station"
	sppName     = "spp"
)

// step says what takes its time.
func (f *factory) step(title string, do func() error) error {
	start := time.Now()
	fmt.Fprintf(f.io.Err, "%-64s", title)
	if err := do(); err != nil {
		fmt.Fprintln(f.io.Err, "✗")
		return err
	}
	fmt.Fprintf(f.io.Err, "%6.1f s\n", time.Since(start).Seconds())
	return nil
}

// begin makes the folders and a private server with the three databases. What an earlier run left is
// ended and removed.
func begin(ctx context.Context, io console.IO, s shape, devices int) (_ *factory, err error) {
	f := &factory{io: io}
	if f.servers, err = ha.Place(s.Servers); err != nil {
		return nil, err
	}
	if err := f.clean(ctx); err != nil {
		return nil, err
	}
	f.Plant, err = plant.New(ctx, plant.Config{Dir: s.Dir, Name: "ha", Devices: devices, PostgresDir: f.private()})
	if err != nil {
		return nil, err
	}
	err = f.step("Postgres: one server, three databases, roles", func() error { return f.StartPostgres(ctx) })
	if err != nil {
		return nil, errors.Join(err, f.stop())
	}
	return f, nil
}

// private is the folder of the server that the cluster begins with.
func (f *factory) private() string { return filepath.Join(f.servers, "postgres") }

// password is the file of a role's password.
func (f *factory) password(role string) string {
	return filepath.Join(f.private(), "role-"+role+".password")
}

// clean removes the servers.
func (f *factory) clean(ctx context.Context) error {
	return errors.Join(ha.Clean(ctx, filepath.Join(f.servers, "cluster")), postgres.Remove(ctx, f.private()))
}

// build makes the whole factory and starts it.
func build(ctx context.Context, io console.IO, s shape, devices int) (_ *factory, err error) {
	f, err := begin(ctx, io, s, devices)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.stop())
		}
	}()
	for _, s := range []struct {
		title string
		do    func() error
	}{
		{"keys, tokens, certificates", func() error { return f.SetUp(ctx) }},
		{fmt.Sprintf("%d chips, identities", devices), func() error { return f.makeDevices(ctx) }},
		{"a cluster takes the server over: 3 etcd, 3 Patroni, 3 Postgres", func() error { return f.cluster(ctx) }},
		{"sequencer, registry and SPP start", func() error { return f.ServeAll(ctx) }},
	} {
		if err := f.step(s.title, s.do); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func (f *factory) makeDevices(ctx context.Context) error {
	list, names, err := f.CreateDevices(ctx, stationName, f.Devices)
	if err != nil {
		return err
	}
	f.names = names
	if err := f.ImportChips(ctx, list); err != nil {
		return err
	}
	_, _, err = f.ImportIdentities(ctx)
	return err
}

// cluster has a cluster take the private server over, and every configuration name it instead.
func (f *factory) cluster(ctx context.Context) (err error) {
	before, _, _ := strings.Cut(f.Postgres.DSN("", ""), " dbname=")
	if err := f.StopPostgres(); err != nil {
		return err
	}
	if f.ha, err = ha.Start(ctx, ha.Config{Dir: filepath.Join(f.servers, "cluster"), From: f.private()}); err != nil {
		return err
	}
	files, err := filepath.Glob(f.Etc("*.yaml"))
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(f.moved(string(text), before)), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// moved replaces each DSN of the private server, which begins with before, by the cluster's.
func (f *factory) moved(text, before string) string {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if key, dsn, ok := strings.Cut(l, "dsn: "+before); ok {
			lines[i] = key + "dsn: " + f.ha.Hosts() + strings.Replace(dsn, " sslmode=disable", "", 1)
		}
	}
	return strings.Join(lines, "\n")
}

// stop ends and removes everything but the plant's folder, in which the logs are.
func (f *factory) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopBound)
	defer cancel()
	all := f.Stop()
	if f.ha != nil {
		for _, name := range f.ha.Names() {
			if log, err := os.ReadFile(f.ha.Log(name)); err == nil {
				all = errors.Join(all, os.WriteFile(filepath.Join(f.Dir, "log", name+".log"), log, 0o600))
			}
		}
		all = errors.Join(all, f.ha.Stop(ctx))
	}
	all = errors.Join(all, f.clean(ctx))
	if err := os.Remove(f.servers); err != nil && !errors.Is(err, os.ErrNotExist) {
		all = errors.Join(all, err)
	}
	return all
}

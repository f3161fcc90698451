package main

import (
	"context"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/untested"
)

// The test binary is the program, and a line beside it, when it is called by
// their names.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"device": main, "line": mainLine})
}

func TestScript(t *testing.T) {
	t.Parallel()
	if _, err := softhsm.Module(); err != nil {
		untested.Skip(t, "%v", err)
	}
	testscript.Run(t, testscript.Params{Dir: "testdata/script", RequireExplicitExec: true, Setup: func(e *testscript.Env) error {
		folder := filepath.Join(e.WorkDir, "registry")
		if err := os.Mkdir(folder, 0o700); err != nil {
			return err
		}
		h, err := registry.NewHandler(entries(folder), registry.HandlerOptions{})
		if err != nil {
			return err
		}
		s := httptest.NewServer(h)
		e.Defer(s.Close)
		e.Setenv("REGISTRY", s.URL)
		e.Setenv("GORACE", "atexit_sleep_ms=10") // else a program built with -race takes a second to exit
		return nil
	}})
}

// entries is a registry in a folder: a file for each entry.
type entries string

func (f entries) all() ([]registry.Stored, error) {
	files, err := filepath.Glob(filepath.Join(string(f), "*.entry"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	var all []registry.Stored
	for i, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		e, err := registry.ParseEntry(b)
		if err != nil {
			return nil, err
		}
		all = append(all, registry.Stored{Entry: e, Sequence: int64(i), LeafHash: e.LeafHash()})
	}
	return all, nil
}

func (f entries) Newest(_ context.Context, ids []identity.RecordID) (map[identity.RecordID]registry.Stored, error) {
	all, err := f.all()
	newest := map[identity.RecordID]registry.Stored{}
	for _, s := range all {
		if slices.Contains(ids, s.Entry.Record) && s.Entry.Generation >= newest[s.Entry.Record].Entry.Generation {
			newest[s.Entry.Record] = s
		}
	}
	return newest, err
}

func (f entries) At(_ context.Context, id identity.RecordID, g identity.Generation) (registry.Stored, error) {
	all, err := f.all()
	for _, s := range all {
		if s.Entry.Record == id && s.Entry.Generation == g {
			return s, nil
		}
	}
	if err == nil {
		err = registry.ErrNotFound
	}
	return registry.Stored{}, err
}

func (f entries) Check(context.Context) error { return nil }

package plant_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/devicekeys/devicekeys/cmd/internal/plant"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/untested"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newPlant(t *testing.T, c plant.Config) *plant.Plant {
	t.Helper()
	if _, err := softhsm.Module(); err != nil {
		untested.Skip(t, "%v", err)
	}
	c.Dir, c.Name = filepath.Join(t.TempDir(), "plant"), "test"
	p, err := plant.New(t.Context(), c)
	must(t, err)
	t.Cleanup(func() { must(t, p.Stop()) })
	return p
}

// What demo and guides call things, where there is one of each.
func TestNamesOfOne(t *testing.T) {
	t.Parallel()
	p := newPlant(t, plant.Config{})
	got := []string{
		strings.Join(p.SPPNames(), " "), strings.Join(p.StationNames(), " "), strings.Join(p.Knows("station", "spp"), " "),
		filepath.Base(p.Fixtures("station")), filepath.Base(p.StationConfig("station", "spp")), filepath.Base(p.HSM("station").Path()), filepath.Base(p.HSM("spp").Path()),
	}
	if diff := cmp.Diff([]string{"spp", "station", "spp", "devices", "station.yaml", "devices", "spp"}, got); diff != "" {
		t.Error(diff)
	}
}

// Of several, each has everything of its own.
func TestNamesOfSeveral(t *testing.T) {
	t.Parallel()
	p := newPlant(t, plant.Config{SPPs: 2, Stations: 3})
	seen := map[string]bool{}
	own := func(what string) {
		if what == "" || seen[what] {
			t.Errorf("%q is nobody's or has two owners", what)
		}
		seen[what] = true
	}
	for _, spp := range p.SPPNames() {
		own(p.Address(spp))
		own(p.Address(spp + " metrics"))
		own(p.HSM(spp).Path())
		for _, station := range p.StationNames() {
			own(p.StationConfig(station, spp))
		}
	}
	for _, station := range p.StationNames() {
		own(p.Fixtures(station))
	}
	if diff := cmp.Diff([][]string{{"spp-2"}, {"spp-2", "spp-1"}, {"spp-2"}}, [][]string{p.Knows("station-1", "spp-2"), p.Knows("station-2", "spp-2"), p.Knows("station-3", "spp-2")}); diff != "" {
		t.Error(diff)
	}
}

// A folder that holds something else is left alone; an earlier plant's is made anew.
func TestFolder(t *testing.T) {
	t.Parallel()
	p := newPlant(t, plant.Config{})
	old := p.Etc("old.yaml")
	must(t, os.WriteFile(old, nil, 0o600))
	again, err := plant.New(t.Context(), plant.Config{Dir: p.Dir, Name: "test"})
	must(t, err)
	must(t, again.Stop())
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Errorf("the earlier plant's file is still there: %v", err)
	}
	foreign := t.TempDir()
	must(t, os.WriteFile(filepath.Join(foreign, "thesis.txt"), nil, 0o600))
	if _, err := plant.New(t.Context(), plant.Config{Dir: foreign, Name: "test"}); err == nil || !strings.Contains(err.Error(), "not an earlier test's") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(filepath.Join(foreign, "thesis.txt")); err != nil {
		t.Error(err)
	}
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/station"
)

// lineCmd is a station over software chips. It is what the station program does, with
// package station doing the work, and says each outcome as soon as it is there, so that
// one who is killed has said what was acknowledged.
type lineCmd struct {
	Config  string   `name:"config" required:"" help:"File of its lineConfig, JSON."`
	Devices []string `arg:"" name:"device" help:"Devices to take."`
}

// lineConfig is what such a station needs.
type lineConfig struct {
	URLs                       []string // of the SPPs, the preferred one first
	CA, PIN, Lock, Certificate string
	Fixtures, Modules, Journal string
	Hands                      int
}

// lineDrain is how long devices in work may go on after SIGTERM.
const lineDrain = 10 * time.Second

func (c *lineCmd) Run(ctx context.Context, io console.IO) (err error) {
	raw, err := os.ReadFile(c.Config)
	if err != nil {
		return err
	}
	var config lineConfig
	if err := json.Unmarshal(raw, &config); err != nil {
		return err
	}
	module, token, err := tokenconfig.Open(ctx, identity.Development, tokenconfig.Config{
		Token: "dev-station", PINFile: console.Path(config.PIN), LockFile: console.Path(config.Lock), Sessions: 2,
	}, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, module.Close()) }()
	tls, err := tokenconfig.ClientTLS(token, tokenconfig.TLSKeyLabel(identity.Development, "station"), config.Certificate, config.CA)
	if err != nil {
		return err
	}
	tokenconfig.RequirePeer(tls, identity.Development, "spp")
	journal, err := station.OpenJournal(config.Journal)
	if err != nil {
		return err
	}
	var print sync.Mutex
	out := json.NewEncoder(io.Out)
	line := &station.Line{
		Client:  station.NewClient(&http.Client{Transport: station.NewTransport(tls, config.Hands)}, config.URLs...),
		Journal: journal, Modules: config.Modules, Suite: keypackage.SuiteAttested, Hands: config.Hands,
		OnDone: func(o station.Outcome) {
			print.Lock()
			defer print.Unlock()
			_ = out.Encode(o) // nobody reads any more: the work goes on, and is resumed
		},
	}
	if err := line.Prepare(ctx); err != nil {
		return err
	}
	b := softwareBench{config.Fixtures}
	var fixtures []station.Fixture
	for _, name := range c.Devices {
		fixtures = append(fixtures, station.Fixture{Name: name, Open: func(ctx context.Context) (station.Device, error) { return b.device(ctx, name) }})
	}
	for _, o := range line.Run(ctx, fixtures, lineDrain) {
		if o.Err != nil {
			err = errors.Join(err, o.Err)
		}
	}
	return err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"math/big"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

type poolGenerateCmd struct {
	console.ConfigFile
	console.Output
	Line     string `name:"line" required:"" placeholder:"LINE" help:"The product line whose identities get keys."`
	Count    int    `name:"count" placeholder:"N" help:"How many identities get keys, those of the lowest values first. Left out: all that lack any."`
	Operator string `name:"operator" required:"" placeholder:"NAME" help:"Who has them made, for the audit log: up to 64 characters."`
}

func (*poolGenerateCmd) Help() string {
	return `Keys of the profile's entries with source pool are made before their devices come, in the HSM, with their certificates, so that assembly makes none; secrets of algorithm none are drawn there, and counted as keys. A key leaves the HSM only wrapped, and waits in the pool sealed to its identity; it goes when its device is published. Stop the command at any time and run it again: it goes on where it was.`
}

func (*poolGenerateCmd) Examples() string {
	return `
$ spp pool generate --config spp.yaml --line meter --operator alice
line        meter
identities  500
keys        1000`
}

// generated is what pool generate says.
type generated struct {
	Line       string `json:"line"`
	Identities int    `json:"identities"` // that have their keys now
	Keys       int64  `json:"keys"`       // that are new
}

func (c *poolGenerateCmd) Run(ctx context.Context, out console.IO) error {
	if c.Count < 0 {
		return console.Usagef("--count %d: give how many identities, or leave it out for all", c.Count)
	}
	if _, err := (orderFlags{Reason: "-", Operator: c.Operator}).order(); err != nil {
		return err
	}
	return withStores(ctx, c.Config, func(config Config, s stores) error {
		p, err := config.profile(c.Line)
		if err != nil {
			return err
		}
		if config.DeviceCA == "" && p.Certifies() {
			return noDeviceCA(p)
		}
		stock, err := s.pool.Stock(ctx)
		if err != nil {
			return err
		}
		total := 0
		for _, k := range stock {
			if k.Line == c.Line {
				total += int(k.Free + k.Reserved)
			}
		}
		if c.Count > 0 {
			total = min(total, c.Count)
		}
		return withToken(ctx, config, true, func(tok *hsm.Token, keys *maker.Keys) error {
			ca, label, err := config.deviceCA(tok, keys, p)
			if err != nil {
				return err
			}
			bar := c.Progress(out.Err, total, "identities")
			a := provisioning.Advance{
				Realm: config.Realm, Profile: p, Keys: keys, DeviceCA: ca, Pool: s.pool, Workers: generateWorkers, Progress: func(n int) { bar.Add(n) },
				Order: func(ctx context.Context, n int, first, last identity.Identity) error {
					return s.records.OrderKeys(ctx, records.ActGenerateKeys, c.Line, records.Order{Operator: c.Operator, Reason: fmt.Sprintf("%d keys in advance, %s to %s", n, first, last)})
				},
				License: func(ctx context.Context, serials []*big.Int, first, last identity.Identity) error {
					return s.licenseCertificates(ctx, label, serials, fmt.Sprintf("made in advance for line %s, %s to %s", c.Line, first, last), c.Operator)
				},
			}
			made, added, err := a.Run(ctx, c.Count)
			bar.Done()
			result := generated{Line: c.Line, Identities: made, Keys: added}
			if errors.Is(err, provisioning.ErrNothingInAdvance) {
				return console.Usagef("%w: write source: pool in the entries whose keys are to be made in advance", err)
			}
			if err != nil {
				return console.Hint(fmt.Errorf("after %d identities: %w", made, err), "run the command again: what is made stays, and it goes on from there")
			}
			return c.Print(out.Out, result)
		})
	})
}

// licenseCertificates commits the audit entries for certificates with these serial numbers, by the device CA whose key's label is given. A crash in
// between leaves licences that nobody used.
func (s stores) licenseCertificates(ctx context.Context, label string, serials []*big.Int, about, operator string) error {
	for _, e := range audit.Certifications(label, serials, about, "operator "+operator) {
		if err := s.records.License(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// generateWorkers is how many keys are made at once: an HSM behind a network answers several calls in the time of one.
const generateWorkers = 8

// profile gives the profile of a product line.
func (c Config) profile(line string) (profile.Profile, error) {
	profiles, err := c.profiles()
	if err != nil {
		return profile.Profile{}, err
	}
	var names []string
	for _, p := range profiles {
		if p.Name == line {
			return p, nil
		}
		names = append(names, p.Name)
	}
	return profile.Profile{}, console.Usagef("product line %q has no profile here: %q have", line, names)
}

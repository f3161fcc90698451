package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/audit/check"
	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry/store"
)

type checkCmd struct {
	console.ConfigFile
	console.Output
	Token bool `name:"token" help:"Also verify every restore proof in the SPP's token, and look at its keys. Writes an entry into the audit log for each."`
}

// report is a check's result as it is printed.
type report struct{ check.Report }

func (r report) String() string {
	var b strings.Builder
	t := console.NewTable(console.Column{Name: "holds", Title: " "}, console.Column{Name: "number", Title: "invariant"}, console.Column{Name: "name", Title: " "},
		console.Column{Name: "checked"}, console.Column{Name: "found", Title: "violations"})
	for _, i := range r.Invariants {
		mark := "✗"
		if i.Holds {
			mark = "✓"
		}
		t.Row(mark, i.Number, i.Name, i.Checked, i.Found)
	}
	fmt.Fprintf(&b, "%s\n%d generations of devices, audit log of %d entries\n", t, r.Devices, r.AuditHead.Seq)
	for _, i := range r.Invariants {
		if i.Holds && len(i.Unchecked) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n%s: %s\n", i.Name, i.Text)
		for _, v := range i.Violations {
			device := ""
			if v.Device != "" {
				device = "record " + v.Device + ": "
			}
			// What is quoted in a cause may come from a damaged row.
			fmt.Fprintf(&b, "  ✗ %s%s\n    in %s\n", device, visible(v.Cause), visible(strings.Join(v.Rows, ", ")))
		}
		if more := i.Found - int64(len(i.Violations)); more > 0 {
			fmt.Fprintf(&b, "  ✗ and %d more\n", more)
		}
		if i.Unread != "" {
			fmt.Fprintf(&b, "  ✗ could not be checked to the end: %s\n", visible(i.Unread))
		}
		for _, u := range i.Unchecked {
			fmt.Fprintf(&b, "  - left out: %s\n", u)
		}
	}
	return b.String()
}

// visible replaces what could drive a terminal.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

func (c *checkCmd) Run(ctx context.Context, io console.IO) (err error) {
	var config Config
	if err := console.LoadConfig(c.Config.String(), &config); err != nil {
		return err
	}
	sources, closeAll, err := config.sources(ctx, c.Token)
	defer func() { err = errors.Join(err, closeAll()) }()
	if err != nil {
		return err
	}
	r := check.Run(ctx, sources)
	if err := c.Print(io.Out, report{r}); err != nil {
		return err
	}
	if r.Holds() {
		return nil
	}
	var broken []string
	for _, i := range r.Invariants {
		if !i.Holds {
			broken = append(broken, i.Name)
		}
	}
	return console.Hint(fmt.Errorf("%d of %d invariants do not hold: %s", len(broken), len(r.Invariants), strings.Join(broken, ", ")),
		"keep the databases as they are, stop the line if devices are concerned, and look at the rows named above")
}

// sources opens all that the configuration names. closeAll is never nil.
func (c Config) sources(ctx context.Context, withToken bool) (s check.Sources, closeAll func() error, err error) {
	var closers []func() error
	closeAll = func() error {
		var errs []error
		for i := len(closers) - 1; i >= 0; i-- {
			errs = append(errs, closers[i]())
		}
		return errors.Join(errs...)
	}
	s = check.Sources{Realm: c.Realm, Grace: c.Grace, ReservationLife: c.Life}
	if s.Actor, err = c.who(); err != nil {
		return s, closeAll, err
	}
	if s.ROMKey, err = key(c.ROMKey); err != nil {
		return s, closeAll, err
	}
	if s.AuditKey, err = key(c.AuditKey); err != nil {
		return s, closeAll, err
	}
	if s.Certificates, err = c.certificates(); err != nil {
		return s, closeAll, err
	}
	if s.From, err = c.head(c.KeptHead); err != nil {
		return s, closeAll, err
	}
	poolDB, err := c.Pool.OpenAt(ctx, conns, pool.Migrations, oldSchema)
	if err != nil {
		return s, closeAll, err
	}
	closers = append(closers, poolDB.Close)
	recordsDB, err := c.Records.OpenAt(ctx, conns, records.Migrations, oldSchema)
	if err != nil {
		return s, closeAll, err
	}
	closers = append(closers, recordsDB.Close)
	s.Pool, s.Records, s.Audit = pool.New(poolDB), records.New(recordsDB), audit.New(recordsDB, c.Realm)
	if r := c.Registry; r != nil {
		if s.Registry, err = r.client(c.Realm); err != nil {
			return s, closeAll, err
		}
		if r.Database != nil {
			db, err := r.Database.OpenAt(ctx, conns, store.Migrations(), oldSchema)
			if err != nil {
				return s, closeAll, err
			}
			closers = append(closers, db.Close)
			reader, err := store.NewReader(ctx, db)
			if err != nil {
				return s, closeAll, err
			}
			s.RegistryStore = reader
		}
	}
	if withToken {
		if c.Token == nil {
			return s, closeAll, console.Usagef("--token, but the configuration has no section token")
		}
		module, tok, err := tokenconfig.Open(ctx, c.Realm, *c.Token, false)
		if err != nil {
			return s, closeAll, err
		}
		closers = append(closers, module.Close)
		ring, err := maker.Open(ctx, tok, c.Realm)
		if err != nil {
			return s, closeAll, err
		}
		s.Keys = keys{ring}
	}
	return s, closeAll, nil
}

// keys is the maker's key ring as the checker asks for it.
type keys struct{ *maker.Keys }

// Inventory lists the keys of the ring: secret and private ones, all of them token objects.
func (k keys) Inventory(ctx context.Context) ([]check.Key, error) {
	items, err := k.Keys.Inventory(ctx)
	if err != nil {
		return nil, err
	}
	var all []check.Key
	for _, i := range items {
		all = append(all, check.Key{
			Label: i.Label, Secret: true, Token: true,
			// An attribute that the token does not show counts as the bad value.
			Sensitive: i.Value("CKA_SENSITIVE") == "true", Extractable: i.Value("CKA_EXTRACTABLE") != "false",
		})
	}
	return all, nil
}

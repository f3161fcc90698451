package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

type poolCmd struct {
	Import     poolImportCmd     `cmd:"" help:"Import a file of identities as one batch."`
	Status     poolStatusCmd     `cmd:"" help:"List the batches and what became of them."`
	Generate   poolGenerateCmd   `cmd:"" help:"Make keys in advance for identities that wait."`
	ImportKeys poolImportKeysCmd `cmd:"" name:"import-keys" help:"Import keys from outside for identities that wait."`
	WrapKeys   poolWrapKeysCmd   `cmd:"" name:"wrap-keys" help:"Make a file of keys and secrets for the maker, as their sender."`
	SignKeys   poolSignKeysCmd   `cmd:"" name:"sign-keys" help:"Sign a file of keys, as their sender."`
	Keys       poolKeysCmd       `cmd:"" help:"Count the keys that wait."`
	Burn       poolBurnCmd       `cmd:"" help:"Keep one identity from ever being given to a device."`
}

type poolImportCmd struct {
	console.ConfigFile
	console.Output
	File        string `arg:"" type:"existingfile" help:"One identity a line; for IMEIs with or without the check digit, or a range TAC,FIRST,LAST of serial numbers."`
	Batch       string `name:"batch" required:"" placeholder:"NAME" help:"The batch's name, unique: an invoice, a week."`
	Line        string `name:"line" required:"" placeholder:"LINE" help:"The product line that the identities are for."`
	SkipRefused bool   `name:"skip-refused" help:"Import the others where some are refused; without it nothing is imported then."`
}

// Examples is the command's session.
func (*poolImportCmd) Examples() string {
	return `
$ cat imeis.csv
# TAC, first and last serial number
00440200,000000,000199
004402010000009
$ spp pool import --config spp.yaml --batch 2026-31 --line phone imeis.csv`
}

// poolImported is what pool import says.
type poolImported struct {
	Batch    string         `json:"batch"`
	Line     string         `json:"line"`
	Imported int            `json:"imported"`
	Refused  []pool.Refused `json:"refused"`
}

func (r poolImported) String() string {
	s := fmt.Sprintf("batch %q of line %q: %d identities imported, %d refused\n", r.Batch, r.Line, r.Imported, len(r.Refused))
	if len(r.Refused) == 0 {
		return s
	}
	t := console.NewTable(console.Columns("line", "text", "reason")...)
	for _, x := range r.Refused {
		line := any(x.Line)
		if x.Line == 0 {
			line = ""
		}
		t.Row(line, x.Text, x.Reason)
	}
	return s + "\n" + t.String()
}

func (c *poolImportCmd) Run(ctx context.Context, out console.IO) error {
	return withStores(ctx, c.Config, func(config Config, s stores) error {
		p, err := config.profile(c.Line)
		if err != nil {
			return err
		}
		kind := p.Identity
		ids, refused, err := c.read(kind)
		if err != nil {
			return err
		}
		good, known, err := c.knownBefore(ctx, s, ids)
		if err != nil {
			return err
		}
		result := poolImported{Batch: c.Batch, Line: c.Line, Refused: slices.Concat([]pool.Refused{}, refused, known)}
		if len(result.Refused) > 0 && !c.SkipRefused || len(good) == 0 {
			// The report is the result; the error says what it means.
			return errors.Join(c.Print(out.Out, result), refusal(fmt.Errorf("%d of %q's identities are refused: nothing was imported", len(result.Refused), c.File),
				"identities", "correct the file, or import the others with --skip-refused"))
		}
		if _, err := s.pool.Import(ctx, c.Batch, c.Line, kind, good); err != nil {
			if twice := (*pool.DuplicateError)(nil); errors.As(err, &twice) {
				// Another import was faster.
				return refusal(err, "identities", "run the command again: it lists every line that another batch has")
			}
			if errors.Is(err, pool.ErrNameTaken) {
				return refusal(err, "batch", "see spp pool status: was this file imported before? Then it is done; else choose another name")
			}
			return err
		}
		result.Imported = len(good)
		return c.Print(out.Out, result)
	})
}

func (c *poolImportCmd) read(kind identity.Type) ([]identity.Identity, []pool.Refused, error) {
	f, err := os.Open(c.File)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close() // opened for reading: nothing to lose
	ids, refused, err := pool.ReadCSV(f, kind, pool.Options{})
	if errors.Is(err, pool.ErrTooLong) || errors.Is(err, pool.ErrNotIdentities) {
		return nil, nil, refusal(fmt.Errorf("%q: %w", c.File, err), "identities", "split the file, or look whether it is the right one")
	}
	return ids, refused, err
}

// knownBefore sorts out identities that wait in the pool already, that a device has or had, and that were burned, each
// with the batch it came in first. Another import may add some meanwhile: then the pool itself refuses the batch.
func (c *poolImportCmd) knownBefore(ctx context.Context, s stores, ids []identity.Identity) (good []identity.Identity, refused []pool.Refused, err error) {
	waiting, err := s.pool.Find(ctx, ids)
	if err != nil {
		return nil, nil, err
	}
	used, err := s.records.Uses(ctx, ids)
	if err != nil {
		return nil, nil, err
	}
	names, err := s.batchNames(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, id := range ids {
		batch, waits := waiting[id.Value()]
		use, known := used[id.Value()]
		switch {
		case known:
			refused = append(refused, pool.Refused{Text: id.String(), Reason: fmt.Sprintf("batch %q had it and it %s, so batch %q can't: an identity is given once",
				nameOf(names, use.Batch), fate(use), c.Batch)})
		case waits:
			refused = append(refused, pool.Refused{Text: id.String(), Reason: fmt.Sprintf("batch %q has it already, so batch %q can't: remove it from one", batch, c.Batch)})
		default:
			good = append(good, id)
		}
	}
	return good, refused, nil
}

// fate says what became of an identity that left the pool.
func fate(u records.Use) string {
	switch u.State {
	case records.UseBurned:
		return "was burned"
	case records.UseReleased:
		return "was scrapped with record " + u.Record.Short()
	}
	return "is used by record " + u.Record.Short()
}

type poolStatusCmd struct {
	console.ConfigFile
	console.Output
}

func (c *poolStatusCmd) Run(ctx context.Context, out console.IO) error {
	return withStores(ctx, c.Config, func(_ Config, s stores) error {
		batches, err := s.pool.Batches(ctx)
		if err != nil {
			return err
		}
		t := console.NewTable(console.Columns("batch", "line", "type", "imported", "free", "reserved", "used", "burned", "at")...)
		for _, b := range batches {
			t.Row(b.Name, b.Line, b.Type.String(), b.Imported, b.Free, b.Reserved, b.Used, b.Burned, b.At)
		}
		return c.Print(out.Out, t)
	})
}

type poolKeysCmd struct {
	console.ConfigFile
	console.Output
}

func (*poolKeysCmd) Help() string {
	return `One line for each product line and entry: how many keys, or secrets that are no keys, wait with their identities. An identity of a line whose profile has entries of source pool or imported is given to a device only with all of them.`
}

func (c *poolKeysCmd) Run(ctx context.Context, out console.IO) error {
	return withStores(ctx, c.Config, func(_ Config, s stores) error {
		stock, err := s.pool.KeyStock(ctx)
		if err != nil {
			return err
		}
		t := console.NewTable(console.Columns("line", "entry", "ready")...)
		for _, k := range stock {
			t.Row(k.Line, k.Entry, k.Ready)
		}
		return c.Print(out.Out, t)
	})
}

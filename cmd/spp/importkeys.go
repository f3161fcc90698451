package main

import (
	"context"
	"errors"
	"fmt"
	"math/big"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/hsm/transport"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

type poolImportKeysCmd struct {
	console.ConfigFile
	console.Output
	senderFlags
	File     string `arg:"" type:"existingfile" help:"One key or secret a line: IDENTITY,ENTRY,PUBLIC,BLOB; the last two in base64, PUBLIC empty unless it is a key pair (spp pool wrap-keys makes it)."`
	Line     string `name:"line" required:"" placeholder:"LINE" help:"The product line that the keys are for."`
	Operator string `name:"operator" required:"" placeholder:"NAME" help:"Who imports them, for the audit log: up to 64 characters."`
}

func (*poolImportKeysCmd) Help() string {
	return `Keys of the profile's entries with source imported come from outside, each wrapped to the transport key of this HSM (custodian transport show) under the label "device <identity's URN> <entry>". They are unwrapped in the HSM and nowhere else. A secret that is no key, of an entry of algorithm none, is encrypted to the same key under the label "secret <identity's URN> <entry>"; it is opened in the HSM and sealed again at once, and counted as a key. The transport key is public, so anybody can make such a file: it is taken by its sender's signature, or by its SHA-256 heard another way. Identities come first: spp pool import. A file with a line that is refused changes nothing. The same file again goes on: keys that are there stay, and those of identities that were given to devices are left out.`
}

func (*poolImportKeysCmd) Examples() string {
	return `
$ spp pool import-keys --config spp.yaml --line tv --operator alice \
    --sender licensor.pem --signature keys.csv.sig keys.csv
line      tv
imported  500
known     0
used      0`
}

// keysImported is what pool import-keys says; its field names are part of the interface.
type keysImported struct {
	Line     string `json:"line"`
	Imported int64  `json:"imported"`
	Known    int64  `json:"known"` // had their key already; it stays
	Used     int64  `json:"used"`  // their identity left the pool: used or burned
}

// keyPage is how many keys one transaction keeps.
const keyPage = 64

func (c *poolImportKeysCmd) Run(ctx context.Context, out console.IO) error {
	if _, err := (orderFlags{Reason: "-", Operator: c.Operator}).order(); err != nil {
		return err
	}
	if err := c.senderFlags.check(); err != nil {
		return err
	}
	return withStores(ctx, c.Config, func(config Config, s stores) error {
		p, err := config.profile(c.Line)
		if err != nil {
			return err
		}
		file, err := readKeyFile(c.File, p)
		if err != nil {
			return err
		}
		sender, err := c.authenticate(c.File, config.Realm, c.Line, file.hash)
		if err != nil {
			return err
		}
		result := keysImported{Line: c.Line}
		lines, err := c.missing(ctx, s, file.lines, &result)
		if err != nil {
			return err
		}
		if len(lines) == 0 {
			return c.Print(out.Out, result)
		}
		return withToken(ctx, config, true, func(tok *hsm.Token, keys *maker.Keys) error {
			ca, label, err := config.deviceCA(tok, keys, p)
			if err != nil {
				return err
			}
			o := records.Order{Operator: c.Operator, Reason: fmt.Sprintf("%d keys, %s to %s, of the file with SHA-256 %x, %s", len(lines), lines[0].id, lines[len(lines)-1].id, file.hash, sender)}
			if err := s.records.OrderKeys(ctx, records.ActImportKeys, c.Line, o); err != nil {
				return err
			}
			bar := c.Progress(out.Err, len(lines), "keys")
			defer bar.Done()
			a := provisioning.Advance{
				Realm: config.Realm, Profile: p, Keys: keys, DeviceCA: ca, Pool: s.pool,
				License: func(ctx context.Context, serials []*big.Int, first, last identity.Identity) error {
					return s.licenseCertificates(ctx, label, serials, fmt.Sprintf("for imported keys of line %s, %s to %s", c.Line, first, last), c.Operator)
				},
			}
			for begin := 0; begin < len(lines); begin += keyPage {
				page := lines[begin:min(begin+keyPage, len(lines))]
				n, err := c.take(ctx, a, keys, page)
				result.Imported += n
				if err != nil {
					return err
				}
				result.Known += int64(len(page)) - n // another import was faster
				bar.Add(len(page))
			}
			bar.Done()
			return c.Print(out.Out, result)
		})
	})
}

// missing leaves out the keys that are there, and those whose identity left the pool, and counts both. What it gives
// waits, with its batch. An identity that neither pool nor records know refuses the file.
func (c *poolImportKeysCmd) missing(ctx context.Context, s stores, lines []keyLine, result *keysImported) ([]keyLine, error) {
	ids := make([]identity.Identity, len(lines))
	for i, l := range lines {
		ids[i] = l.id
	}
	waiting, err := s.pool.Look(ctx, ids)
	if err != nil {
		return nil, err
	}
	keys, err := s.pool.EntriesWithKeys(ctx, ids)
	if err != nil {
		return nil, err
	}
	used, err := s.records.Uses(ctx, ids)
	if err != nil {
		return nil, err
	}
	var left []keyLine
	for _, l := range lines {
		w, waits := waiting[l.id.Value()]
		_, gone := used[l.id.Value()]
		switch {
		case waits && w.Line == c.Line && keys[l.id.Value()][l.entry.Name]:
			result.Known++
		case waits && w.Line == c.Line:
			l.batch = w.Batch
			left = append(left, l)
		case !waits && gone:
			result.Used++
		default:
			return nil, refusal(fmt.Errorf("%q, line %d: %s does not wait in the pool of line %q", c.File, l.n, l.id, c.Line), "keys", "import the identities first: spp pool import; nothing was imported")
		}
	}
	return left, nil
}

// take imports a few keys. A crash leaves whole pages.
func (c *poolImportKeysCmd) take(ctx context.Context, a provisioning.Advance, keys *maker.Keys, lines []keyLine) (int64, error) {
	var page []provisioning.Outside
	for _, l := range lines {
		page = append(page, provisioning.Outside{Identity: l.id, Batch: l.batch, Entry: l.entry, Public: l.public, Blob: l.blob})
	}
	n, err := a.Take(ctx, keys, page)
	var at *provisioning.OutsideError
	switch {
	case errors.Is(err, pool.ErrPointTaken):
		return 0, refusal(fmt.Errorf("%q, lines %d to %d: %w", c.File, lines[0].n, lines[len(lines)-1].n, err), "keys",
			"none of these lines was imported: ask the sender for a pair of its own for each identity and entry")
	case !errors.As(err, &at):
		return n, err
	}
	err = fmt.Errorf("%q, line %d: %w", c.File, lines[at.At].n, err)
	switch {
	case errors.Is(err, provisioning.ErrSecret):
		return 0, refusal(err, "keys", "ask the sender for a secret of the profile's length, and digits where it says so")
	case errors.Is(err, transport.ErrOther), hsm.Classify(err) == hsm.DataFault:
		return 0, refusal(err, "keys", "ask the sender to wrap it to this HSM's transport key, under the label that --help names")
	}
	return 0, err
}

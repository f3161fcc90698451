package main

import (
	"context"
	"errors"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry"
)

type outboxCmd struct {
	List  outboxListCmd  `cmd:"" help:"List the entries that wait for the registry and those that were set aside."`
	Retry outboxRetryCmd `cmd:"" help:"Send an entry that was set aside once more."`
}

// maxRows bounds what a listing asks the database for: some tens of megabytes.
const maxRows = 10_000

// checkLimit refuses a --limit that lists nothing or everything there ever was.
func checkLimit(n int) error {
	if n < 1 || n > maxRows {
		return console.Usagef("--limit is %d: 1 to %d are allowed", n, maxRows)
	}
	return nil
}

type outboxListCmd struct {
	console.ConfigFile
	console.Output
	Limit int `name:"limit" default:"100" placeholder:"N" help:"The oldest N that wait (default 100). Those set aside are all listed."`
}

func (*outboxListCmd) Help() string {
	return `An entry waits from the moment its device proved its restoration, or was scrapped, until the registry has acknowledged it; spp serve sends them, oldest first. One that the registry refuses is set aside with its reason, so that it holds up no other.`
}

func (*outboxListCmd) Examples() string {
	return `
$ spp outbox list --config spp.yaml
record            generation  type    state      since                 reason
3f0c81d2a9b4ab...          1  device  waiting    2026-03-02T10:14:07Z
90ab12cd34ef01...          1  device  set aside  2026-03-02T09:58:40Z  ...`
}

func (c *outboxListCmd) Run(ctx context.Context, out console.IO) error {
	if err := checkLimit(c.Limit); err != nil {
		return err
	}
	return withStores(ctx, c.Config, func(_ Config, s stores) error {
		waiting, err := s.records.Outbox(ctx, c.Limit)
		if err != nil {
			return err
		}
		aside, err := s.records.Aside(ctx)
		if err != nil {
			return err
		}
		t := console.NewTable(console.Columns("record", "generation", "type", "state", "since", "reason")...)
		for _, w := range waiting {
			t.Row(w.Record.String(), uint32(w.Generation), entryType(w.Type), "waiting", w.Since, "")
		}
		for _, a := range aside {
			t.Row(a.Record.String(), uint32(a.Generation), entryType(a.Type), "set aside", a.Since, a.Reason)
		}
		return c.Print(out.Out, t)
	})
}

// entryType names an entry's type. The records' number 0 stands for a device's own entry.
func entryType(n uint8) string {
	if n != 0 {
		return registry.EntryType(n).String()
	}
	return ownEntry
}

// ownEntry is the name of a device's own entry, of type register or supersede.
const ownEntry = "device"

type outboxRetryCmd struct {
	console.ConfigFile
	console.Output
	orderFlags
	deviceArg
	Generation identity.Generation `arg:"" name:"generation" help:"The entry's generation, as spp outbox list shows it."`
	Type       string              `name:"type" enum:"device,scrap,erase,certificates" default:"device" placeholder:"TYPE" help:"Which entry of that generation: device, scrap, erase or certificates (default device)."`
}

func (*outboxRetryCmd) Help() string {
	return `For an entry that was set aside, once the cause its reason names is mended. It goes out with the same bytes; refused again, it is set aside again. A device that can't be published is given up instead: spp pool burn ends its identity with it, spp device abandon a rework.`
}

func (*outboxRetryCmd) Examples() string {
	return `
$ spp outbox list --config spp.yaml
$ spp outbox retry --config spp.yaml \
    90ab12cd34ef5678901234567890abcdef90ab12cd34ef5678901234567890ab 1 \
    --reason "the sequencer knows the key now" --operator alice`
}

// retried is what outbox retry says.
type retried struct {
	Record     identity.RecordID   `json:"record"`
	Generation identity.Generation `json:"generation"`
	Type       string              `json:"type"`
	New        bool                `json:"new"` // false: it was not set aside any more
}

func (c *outboxRetryCmd) Run(ctx context.Context, out console.IO) error {
	o, err := c.order()
	if err != nil {
		return err
	}
	number, err := entryNumber(c.Type)
	if err != nil {
		return err
	}
	return withStores(ctx, c.Config, func(_ Config, s stores) error {
		aside, err := s.records.Aside(ctx)
		if err != nil {
			return err
		}
		r := retried{Record: c.Record, Generation: c.Generation, Type: c.Type}
		for _, a := range aside {
			r.New = r.New || a.Record == c.Record && a.Generation == c.Generation && a.Type == number
		}
		switch err := s.records.PutBack(ctx, c.Record, c.Generation, number, o); {
		case errors.Is(err, records.ErrNotFound):
			return refusal(err, codeUnknownEntry, "spp outbox list shows what waits and what was set aside")
		case errors.Is(err, records.ErrConflict):
			return refusal(err, codeState, "only an entry that was set aside is sent again: spp outbox list")
		case err != nil:
			return err
		}
		return c.Print(out.Out, r)
	})
}

// entryNumber is entryType's other way.
func entryNumber(name string) (uint8, error) {
	if name == ownEntry {
		return 0, nil
	}
	t, err := registry.ParseEntryType(name)
	if err != nil {
		return 0, console.Usagef("%w", err)
	}
	return uint8(t), nil
}

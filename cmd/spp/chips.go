package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/statement"
)

type chipsCmd struct {
	Import chipsImportCmd `cmd:"" help:"Take the chips of a chip maker's signed delivery list."`
	Status chipsStatusCmd `cmd:"" help:"Say how many chips were delivered."`
}

type chipsImportCmd struct {
	console.ConfigFile
	console.Output
	List string `arg:"" type:"existingfile" help:"The delivery list, a statement signed by a chip maker whose key is in chip_makers."`
}

func (*chipsImportCmd) Help() string {
	return `All chips of the list are taken, or none. Where an earlier list says something else of a chip, another attestation key under one record id or one key for two chips, nothing is imported: every chip in dispute is named and contested, which means that the line takes it no more, what is on the line of it is quarantined, and an incident is kept. A device in the field is left alone: only an operator quarantines that.`
}

func (*chipsImportCmd) Examples() string {
	return `
$ spp chips import --config spp.yaml delivery-17.cose
maker  chip maker
lot    delivery-17
chips  5000
added  5000
known  0`
}

// chipsImported is what chips import says.
type chipsImported struct {
	Maker string `json:"maker"`
	Lot   string `json:"lot"`
	Chips int    `json:"chips"`
	Added int    `json:"added"`
	Known int    `json:"known"`
}

func (c *chipsImportCmd) Run(ctx context.Context, out console.IO) error {
	return withStores(ctx, c.Config, func(config Config, s stores) error {
		raw, err := readFile(c.List, keypackage.MaxDeliveryList)
		if err != nil {
			return err
		}
		list, key, err := openList(config, raw)
		if err != nil {
			return refusal(fmt.Errorf("delivery list %q: %w", c.List, err), "delivery-list",
				"ask the chip maker for the list again, or name its public key in chip_makers")
		}
		if list.Realm != config.Realm {
			return refusal(fmt.Errorf("delivery list %q is of realm %s, this SPP of %s", c.List, list.Realm, config.Realm), "other-realm", "take a list of this realm")
		}
		added, known, err := s.records.ImportChips(ctx, list, key)
		if contested := (*records.ContestedError)(nil); errors.As(err, &contested) {
			return c.contest(ctx, out, s, list, contested)
		}
		if err != nil {
			return err
		}
		return c.Print(out.Out, chipsImported{list.Maker, list.Lot, len(list.Chips), added, known})
	})
}

// chipsContested is what chips import says where the list contradicts an earlier one.
type chipsContested struct {
	Maker string      `json:"maker"`
	Lot   string      `json:"lot"`
	Chips []contested `json:"contested"`
}

// contested is one chip in dispute: who said what of it.
type contested struct {
	Record  identity.RecordID `json:"record"`  // as the earlier list has it
	Listed  identity.RecordID `json:"listed"`  // as this one does: the same with another key, or another with the same key
	Earlier string            `json:"earlier"` // lot and maker
	Now     string            `json:"now"`
}

func (r chipsContested) String() string {
	t := console.NewTable(console.Columns("record", "listed", "earlier", "now")...)
	for _, c := range r.Chips {
		t.Row(c.Record.String(), c.Listed.String(), c.Earlier, c.Now)
	}
	return t.String()
}

// contest marks every chip in dispute, so that the line takes none of them, and refuses the list. Each is a transaction
// of its own: a crash in between leaves some marked, and the same import, refused again, marks the others.
func (c *chipsImportCmd) contest(ctx context.Context, out console.IO, s stores, list keypackage.DeliveryList, e *records.ContestedError) error {
	r := chipsContested{Maker: list.Maker, Lot: list.Lot, Chips: []contested{}}
	for _, x := range e.Chips {
		r.Chips = append(r.Chips, contested{x.Record, x.Listed, x.Earlier, x.Now})
	}
	err := c.Print(out.Out, r)
	for _, x := range e.Chips {
		facts := map[string]string{"earlier": x.Earlier, "now": x.Now, "listed": x.Listed.String()}
		if err := s.records.Contest(ctx, x.Record, fmt.Sprintf("%s and %s contradict each other over the chip", x.Earlier, x.Now), facts); err != nil {
			return err
		}
	}
	return errors.Join(err, refusal(fmt.Errorf("nothing was imported: %w", e), codeContested,
		"ask the chip makers: one list is wrong, or chips were cloned. The chips named are contested and the line takes none of them: spp incident list; spp device release ends a contest"))
}

// openList finds the chip maker by the key id that the list names, and checks the list with its key.
func openList(c Config, raw []byte) (keypackage.DeliveryList, statement.PublicKey, error) {
	if len(c.ChipMakers) == 0 {
		return keypackage.DeliveryList{}, statement.PublicKey{}, errors.New("no chip maker is known")
	}
	_, id, err := statement.Unverified(raw, statement.DeliveryList, keypackage.MaxDeliveryList)
	if err != nil {
		return keypackage.DeliveryList{}, statement.PublicKey{}, err
	}
	for _, path := range c.ChipMakers {
		text, err := readFile(path.String(), maxKeyFile)
		if err != nil {
			return keypackage.DeliveryList{}, statement.PublicKey{}, err
		}
		key, err := statement.ParsePEM(text)
		if err != nil {
			return keypackage.DeliveryList{}, statement.PublicKey{}, fmt.Errorf("chip maker's key %q: %w", path, err)
		}
		if key.ID() == id {
			list, err := keypackage.ParseDeliveryList(raw, key)
			return list, key, err
		}
	}
	return keypackage.DeliveryList{}, statement.PublicKey{}, fmt.Errorf("it is signed by key %s, which is no known chip maker's", id)
}

// maxKeyFile bounds a PEM file with one public key, in bytes.
const maxKeyFile = 16 << 10

// readFile reads a whole file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // opened for reading: nothing to lose
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("read %q: it is above the limit of %d bytes", path, limit)
	}
	return b, err
}

type chipsStatusCmd struct {
	console.ConfigFile
	console.Output
}

func (c *chipsStatusCmd) Run(ctx context.Context, out console.IO) error {
	return withStores(ctx, c.Config, func(_ Config, s stores) error {
		n, err := s.records.ChipCount(ctx)
		if err != nil {
			return err
		}
		return c.Print(out.Out, struct {
			Delivered int64 `json:"delivered"`
		}{n})
	})
}

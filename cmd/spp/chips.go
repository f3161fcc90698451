package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
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
		if errors.Is(err, records.ErrOtherChip) {
			return refusal(err, "other-chip", "stop using both deliveries and ask the chip maker: one list is wrong, or a chip was cloned")
		}
		if err != nil {
			return err
		}
		return c.Print(out.Out, chipsImported{list.Maker, list.Lot, len(list.Chips), added, known})
	})
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

// refusedError is something that was checked and declined: exit code 3.
type refusedError struct {
	error
	code, next string
}

func refusal(err error, code, next string) error { return &refusedError{err, code, next} }

func (e *refusedError) Unwrap() error   { return e.error }
func (e *refusedError) Refused() string { return e.code }
func (e *refusedError) Next() string    { return e.next }

package slots

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// deliver signs a delivery list of the complete slots that no list names yet.
// A crash before the list is whole leaves them unnamed, for the next call.
func deliver(ctx context.Context, dir string, rack *chip.Rack, o MakeOptions) (list, public string, err error) {
	folder := filepath.Join(dir, makerFolder)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", "", fmt.Errorf("deliver chips: %w", err)
	}
	m, err := openMaker(ctx, folder, rack, o.Realm)
	if err != nil {
		return "", "", fmt.Errorf("deliver chips: %w", err)
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	lists, err := filepath.Glob(filepath.Join(folder, "delivery-*.cbor"))
	if err != nil {
		return "", "", err
	}
	named, err := delivered(lists, m.Public())
	if err != nil {
		return "", "", err
	}
	public = filepath.Join(folder, publicFile)
	if err := writeWhole(public, m.Public().PEM()); err != nil {
		return "", "", fmt.Errorf("deliver chips: %w", err)
	}
	lot := fmt.Sprintf("delivery-%04d", len(lists)+1)
	d := keypackage.DeliveryList{Realm: o.Realm, Maker: o.Maker, Lot: lot}
	if d.Chips, err = undelivered(ctx, dir, rack, named); err != nil || len(d.Chips) == 0 {
		return "", public, err
	}
	raw, err := keypackage.SignDeliveryList(ctx, m, d)
	if err != nil {
		return "", "", fmt.Errorf("deliver chips: %w", err)
	}
	list = filepath.Join(folder, lot+".cbor")
	if err := writeWhole(list, raw); err != nil {
		return "", "", fmt.Errorf("deliver chips: %w", err)
	}
	return list, public, nil
}

// openMaker opens the chip maker's token, and makes it the first time as a
// slot's: PINs first, then token and key, then the file that names it, which
// says that it is complete. A crash before that file is finished by the next
// call.
func openMaker(ctx context.Context, folder string, rack *chip.Rack, realm identity.Realm) (*chip.Maker, error) {
	pin, err := keptPIN(filepath.Join(folder, pinFile))
	if err != nil {
		return nil, err
	}
	named, err := os.ReadFile(filepath.Join(folder, tokenFile))
	if err == nil {
		return rack.Maker(ctx, strings.TrimSpace(string(named)), pin)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	soPIN, err := keptPIN(filepath.Join(folder, soPINFile))
	if err != nil {
		return nil, err
	}
	var m *chip.Maker
	label, _, err := token(ctx, rack, realm.Prefix()+makerToken, soPIN, pin, func(label string) (err error) {
		m, err = rack.Maker(ctx, label, pin)
		return err
	})
	if err != nil {
		return nil, err
	}
	err = writeWhole(filepath.Join(folder, tokenFile), []byte(label+"\n"))
	if err == nil {
		err = remove(filepath.Join(folder, soPINFile))
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// delivered reads the lists there are and gives the records they name.
func delivered(lists []string, maker statement.PublicKey) (map[identity.RecordID]bool, error) {
	named := map[identity.RecordID]bool{}
	for _, path := range lists {
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("deliver chips: %w", err)
		}
		if info.Size() > keypackage.MaxDeliveryList {
			return nil, fmt.Errorf("deliver chips: %q has %d bytes, at most %d are read", path, info.Size(), keypackage.MaxDeliveryList)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("deliver chips: %w", err)
		}
		l, err := keypackage.ParseDeliveryList(raw, maker)
		if err != nil {
			return nil, fmt.Errorf("deliver chips: %q: %w: remove it if it is not this chip maker's", path, err)
		}
		for _, c := range l.Chips {
			named[c.Record] = true
		}
	}
	return named, nil
}

func undelivered(ctx context.Context, dir string, rack *chip.Rack, named map[identity.RecordID]bool) ([]keypackage.DeliveredChip, error) {
	s, err := Open(ctx, dir, rack, Options{})
	if err != nil {
		return nil, err
	}
	var chips []keypackage.DeliveredChip
	for _, name := range s.Names() {
		if slot := s.all[name]; !named[slot.Record] {
			chips = append(chips, keypackage.DeliveredChip{Record: slot.Record, Attestation: slot.Attestation})
		}
	}
	return chips, nil
}

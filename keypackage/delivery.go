package keypackage

import (
	"context"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

// DeliveryList is the chip maker's signed word on the chips of one delivery.
// It names chips by record id, so that a copy of the list opens no record.
type DeliveryList struct {
	Realm identity.Realm
	Maker string // the chip maker's name
	Lot   string // the maker's name of the delivery
	Chips []DeliveredChip
}

// DeliveredChip is one chip of a delivery.
type DeliveredChip struct {
	Record      identity.RecordID
	Attestation statement.PublicKey // public half of the key that signs the chip's hello
}

// MaxDeliveryList bounds a delivery list, in bytes: 100,000 chips and more.
const MaxDeliveryList = 16 << 20

const deliveryVersion = 1

type deliveryWire struct {
	_       struct{} `cbor:",toarray"`
	Version uint
	Realm   identity.Realm
	Maker   string
	Lot     string
	Chips   []deliveredWire
}

type deliveredWire struct {
	_           struct{} `cbor:",toarray"`
	Record      []byte
	Attestation []byte
}

// SignDeliveryList makes the statement, with the chip maker's key.
func SignDeliveryList(ctx context.Context, s statement.Signer, l DeliveryList) ([]byte, error) {
	w := deliveryWire{Version: deliveryVersion, Realm: l.Realm, Maker: l.Maker, Lot: l.Lot, Chips: []deliveredWire{}}
	for _, c := range l.Chips {
		w.Chips = append(w.Chips, deliveredWire{Record: append([]byte(nil), c.Record[:]...), Attestation: c.Attestation.Point()})
	}
	if _, err := l.check(); err != nil {
		return nil, fmt.Errorf("sign delivery list: %w", err)
	}
	payload, err := detcbor.Marshal(w)
	if err != nil {
		return nil, err
	}
	return statement.Sign(ctx, s, statement.DeliveryList, payload)
}

// ParseDeliveryList checks form and signature with the chip maker's key and
// refuses a list that names a chip or an attestation key twice.
func ParseDeliveryList(raw []byte, maker statement.PublicKey) (DeliveryList, error) {
	payload, err := statement.Open(raw, statement.DeliveryList, maker, MaxDeliveryList)
	if err != nil {
		return DeliveryList{}, err
	}
	var w deliveryWire
	if err := detcbor.Unmarshal(payload, &w, MaxDeliveryList); err != nil {
		return DeliveryList{}, fmt.Errorf("read delivery list: %w", err)
	}
	if w.Version != deliveryVersion {
		return DeliveryList{}, fmt.Errorf("read delivery list: version %d is not known", w.Version)
	}
	if w.Chips == nil { // null reads as no chips, and would be written back as an empty array
		return DeliveryList{}, errors.New("read delivery list: null in place of the chips: an empty array says that there are none")
	}
	l := DeliveryList{Realm: w.Realm, Maker: w.Maker, Lot: w.Lot}
	for i, c := range w.Chips {
		if len(c.Record) != len(identity.RecordID{}) {
			return DeliveryList{}, fmt.Errorf("read delivery list: chip %d: record id has %d bytes", i+1, len(c.Record))
		}
		key, err := statement.ParsePoint(c.Attestation)
		if err != nil {
			return DeliveryList{}, fmt.Errorf("read delivery list: chip %d: %w", i+1, err)
		}
		l.Chips = append(l.Chips, DeliveredChip{Record: identity.RecordID(c.Record), Attestation: key})
	}
	if i, err := l.check(); err != nil {
		return DeliveryList{}, fmt.Errorf("read delivery list: chip %d: %w", i+1, err)
	}
	return l, nil
}

func (l DeliveryList) check() (int, error) {
	if !l.Realm.Valid() || l.Maker == "" || l.Lot == "" || len(l.Maker) > 64 || len(l.Lot) > 64 {
		return 0, fmt.Errorf("realm %s, maker %q, lot %q: each is needed, names of up to 64 bytes", l.Realm, l.Maker, l.Lot)
	}
	records, keys := map[identity.RecordID]bool{}, map[statement.PublicKey]bool{}
	for i, c := range l.Chips {
		if records[c.Record] {
			return i, fmt.Errorf("record %s stands twice: two chips have one chip ID", c.Record.Short())
		}
		if keys[c.Attestation] {
			return i, fmt.Errorf("record %s has the attestation key of another chip", c.Record.Short())
		}
		records[c.Record], keys[c.Attestation] = true, true
	}
	return 0, nil
}

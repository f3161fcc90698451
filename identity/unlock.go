package identity

import (
	"context"
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/statement"
)

// Unlock is the manufacturer's word that one locked chip may take one package
// of one next generation: re-provisioning after shipment. The chip is named by
// its record id, so that the statement may lie about without opening a record.
type Unlock struct {
	Realm  Realm
	Record RecordID
	Next   Generation // the only generation it allows; the first package is 1, so 2 or more
}

const unlockVersion = 1

type unlockWire struct {
	_       struct{} `cbor:",toarray"`
	Version uint
	Realm   Realm
	Record  []byte
	Next    Generation
}

func (u Unlock) check() error {
	if !u.Realm.Valid() || u.Next < 2 {
		return fmt.Errorf("unlock statement for %s, generation %d: a realm and a generation of 2 or more are needed", u.Realm, u.Next)
	}
	return nil
}

// SignUnlock makes the statement.
func SignUnlock(ctx context.Context, s statement.Signer, u Unlock) ([]byte, error) {
	if err := u.check(); err != nil {
		return nil, fmt.Errorf("sign %w", err)
	}
	payload, err := detcbor.Marshal(unlockWire{Version: unlockVersion, Realm: u.Realm, Record: u.Record[:], Next: u.Next})
	if err != nil {
		return nil, err
	}
	return statement.Sign(ctx, s, statement.Unlock, payload)
}

// ParseUnlock checks form and signature with the key in the device's ROM.
// Whether it is for this chip and the wanted generation is the caller's to ask.
func ParseUnlock(raw []byte, rom statement.PublicKey) (Unlock, error) {
	payload, err := statement.Open(raw, statement.Unlock, rom, MaxCertificate)
	if err != nil {
		return Unlock{}, err
	}
	var w unlockWire
	if err := detcbor.Unmarshal(payload, &w, MaxCertificate); err != nil {
		return Unlock{}, fmt.Errorf("read unlock statement: %w", err)
	}
	u := Unlock{Realm: w.Realm, Next: w.Next}
	if w.Version != unlockVersion || len(w.Record) != len(u.Record) {
		return Unlock{}, fmt.Errorf("read unlock statement: version %d or record id of %d bytes is not known", w.Version, len(w.Record))
	}
	copy(u.Record[:], w.Record)
	return u, u.check()
}

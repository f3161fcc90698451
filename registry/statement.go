package registry

import (
	"bytes"
	"context"
	"fmt"

	"github.com/devicekeys/devicekeys/statement"
)

// SignStatement signs a scrap or erase entry with the identity-signing key and
// gives the bytes for Entry.Statement. Realm, type, record id and generation
// are set before.
func SignStatement(ctx context.Context, s statement.Signer, e Entry) ([]byte, error) {
	if err := e.checkHead(); err != nil {
		return nil, fmt.Errorf("sign registry statement: %w", err)
	}
	if e.Type.HasRecord() || len(e.Sealed) != 0 {
		return nil, fmt.Errorf("sign registry statement: a %s entry with a record of %d bytes takes none; scrap and erase entries do", e.Type, len(e.Sealed))
	}
	return statement.Sign(ctx, s, statement.Registry, e.Leaf())
}

// CheckStatement checks that the owner of the ROM key said what a scrap or
// erase entry says. Clients ignore an entry that fails; the sequencer takes
// none. It matches statement.ErrForm or statement.ErrSignature.
func (e Entry) CheckStatement(rom statement.PublicKey) error {
	if e.Type.HasRecord() {
		return fmt.Errorf("check registry statement: a %s entry carries none", e.Type)
	}
	payload, err := statement.Open(e.Statement, statement.Registry, rom, MaxStatement)
	if err != nil {
		return fmt.Errorf("check registry statement of record %s: %w", e.Record.Short(), err)
	}
	if !bytes.Equal(payload, e.Leaf()) {
		return fmt.Errorf("check registry statement of record %s: %w: it is about another entry", e.Record.Short(), statement.ErrForm)
	}
	return nil
}

package records

import (
	"context"
	"database/sql"
	"fmt"
)

// OrderKeys keeps an operator's order to make keys in advance for identities of a
// product line, or to import them: act is ActGenerateKeys or ActImportKeys, and
// o.Reason says how many keys, of what. It comes before the first of them is made.
//
// It changes no row of a device. A crash after it leaves an order that was not, or
// not wholly, carried out; the same command again is another order, of what is left.
func (s *Store) OrderKeys(ctx context.Context, act Act, line string, o Order) error {
	if act != ActGenerateKeys && act != ActImportKeys {
		return fmt.Errorf("order keys for line %q: act %q is none of %q and %q", line, act, ActGenerateKeys, ActImportKeys)
	}
	err := s.act(ctx, o, func(*sql.Tx) (Ordered, error) {
		return Ordered{Act: act, Subject: "line " + line}, nil
	})
	if err != nil {
		return fmt.Errorf("order keys for line %q: %w", line, err)
	}
	return nil
}

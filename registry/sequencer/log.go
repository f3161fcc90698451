package sequencer

import (
	"context"
	"crypto/sha256"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry/store"
)

// Log is where entries become durable; store.Writer is one. The service's loop
// is its only caller, one call at a time.
type Log interface {
	// Head gives the number of entries.
	Head(ctx context.Context) (int64, error)
	// Realm gives the realm of the last entry, 0 where there is none.
	Realm(ctx context.Context) (identity.Realm, error)
	// Append shows choose what stands of the records and appends what it
	// returns, all or nothing, if the head is where the caller says. On return
	// without error it is durable. choose may be called more than once.
	// store.ErrHeadMoved: nothing was written, stop. Other errors: it may have
	// been written; Settle tells.
	Append(ctx context.Context, head int64, records []identity.RecordID, choose func([]store.Standing) []store.New) (int64, error)
	// Settle tells what became of an Append that failed: it gives head, and
	// nothing was written or ever will be, or head plus the leaves' number.
	// store.ErrHeadMoved: neither, stop.
	Settle(ctx context.Context, head int64, leaves [][sha256.Size]byte) (int64, error)
}

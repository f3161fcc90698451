package registry

import (
	"context"
	"crypto/sha256"
	"errors"

	"github.com/devicekeys/devicekeys/identity"
)

// What a lookup may end with instead of an entry.
var (
	// ErrNotFound says that the registry has no such record or generation, as
	// far as the server asked knows: a new one takes seconds to be seen.
	ErrNotFound = errors.New("the registry has no such record")
	// ErrErased says that the generation's record was erased. From Lookup it
	// means that the ROM key's owner signed so.
	ErrErased = errors.New("the record was erased")
	// ErrScrapped says that the device was scrapped, and that the ROM key's
	// owner signed so.
	ErrScrapped = errors.New("the device was scrapped")
)

// Stored is an entry with its place in the registry.
type Stored struct {
	Entry    Entry
	Sequence int64             // from 0, dense, in the order of acceptance
	LeafHash [sha256.Size]byte // as it was stored with the entry
}

// Source is where a Handler finds entries. Its methods may run at once; each
// returns by the deadline of its context. An error that is not one of the
// documented ones means that the source can't say: the handler answers 503.
type Source interface {
	// Newest gives the newest entry of each record: the one of the highest
	// generation and, within it, the last one accepted. Records that have none
	// are missing in the answer. ids has no duplicates and at most MaxBatch.
	Newest(ctx context.Context, ids []identity.RecordID) (map[identity.RecordID]Stored, error)
	// At gives the register or supersede entry of a generation. It matches
	// ErrNotFound, or ErrErased where an erase entry stands for it.
	At(ctx context.Context, id identity.RecordID, g identity.Generation) (Stored, error)
	// Check fails while the source can't serve.
	Check(ctx context.Context) error
}

// PublicSource is a Source that has what product lines publish of their devices
// for everyone. Both give the certificates entry of the newest generation, and match
// ErrNotFound where there is none, the device was scrapped, or its newest
// generation has none or was erased.
type PublicSource interface {
	Certificates(ctx context.Context, id identity.RecordID) (Stored, error)
	// Directory looks an identity up by its URN: of the entries that name it and hold,
	// the last one accepted.
	Directory(ctx context.Context, urn string) (Stored, error)
}

// MaxBatch is the most record ids of one batch lookup.
const MaxBatch = 100

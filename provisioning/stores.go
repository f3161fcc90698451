package provisioning

import (
	"context"
	"time"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry/sequencer"
)

// Pool is what the assembly asks of the identity pool. What a method did is
// durable when it returns; after an error it may have been done, and every
// method may be repeated.
type Pool interface {
	// Reserve gives a record's generation its identity: the one it has, or a
	// free one that has keys for the entries named. It matches pool.ErrEmpty,
	// pool.ErrOutOfRange or pool.ErrNoKeys.
	Reserve(ctx context.Context, line string, within []pool.Range, keys []string, record identity.RecordID, g identity.Generation) (pool.Reservation, error)
	// WaitingKeys gives the sealed keys that wait with an identity, by entry.
	WaitingKeys(ctx context.Context, id identity.Identity) (map[string][]byte, error)
	// Use ends an identity's stay after its device was published.
	Use(ctx context.Context, id identity.Identity) error
	// UseAll does so for many at once.
	UseAll(ctx context.Context, ids []identity.Identity) error
	// Burn ends it for good: it is never given again.
	Burn(ctx context.Context, id identity.Identity, reason string) error
	// Reservations lists identities that have been reserved for so long, by the
	// database's clock, oldest first.
	Reservations(ctx context.Context, age time.Duration) ([]pool.Reserved, error)
	// Now gives the database's time.
	Now(ctx context.Context) (time.Time, error)
	// Stock counts by product line.
	Stock(ctx context.Context) ([]pool.Stock, error)
}

// Records is what the assembly asks of the device records. The same promise
// holds; transitions that are not due are refused there, in SQL.
type Records interface {
	// Revoked gives the newest revocation of a station's certificates;
	// records.ErrNotFound. It is asked with every call.
	Revoked(ctx context.Context, station string) (records.Revocation, error)
	// Chip gives what delivery lists say of a chip; records.ErrNotFound.
	Chip(ctx context.Context, record identity.RecordID) (records.Chip, error)
	// Newest and Get give one generation of a device; records.ErrNotFound.
	Newest(ctx context.Context, record identity.RecordID) (records.Device, error)
	Get(ctx context.Context, record identity.RecordID, g identity.Generation) (records.Device, error)
	// Planned gives the board swap that waits for a chip; records.ErrNotFound.
	Planned(ctx context.Context, record identity.RecordID) (records.Plan, error)
	// Reserve writes a device's first row with the audit entry that licenses
	// its keys, in one transaction, and takes the plan for the chip if there is
	// one. It matches records.ErrIdentityUsed, ErrChipActive or ErrExists.
	Reserve(ctx context.Context, d records.Device, e audit.Event) error
	// Packaged keeps a transfer: the first, or one for a new hello.
	Packaged(ctx context.Context, d records.Device) error
	// Confirmed keeps the backup and gives the challenge that stands: the first
	// backup stays, and its challenge. Another one, or another transfer than that of point, matches
	// records.ErrConflict.
	Confirmed(ctx context.Context, record identity.RecordID, g identity.Generation, point, backup, confirm []byte, challenge [32]byte) ([32]byte, error)
	// Restored keeps the proof and the registry entry, which waits in the
	// outbox from then on.
	Restored(ctx context.Context, record identity.RecordID, g identity.Generation, proof, entry, certificates []byte) error
	// Published takes the entry out of the outbox.
	Published(ctx context.Context, record identity.RecordID, g identity.Generation, sequence int64) error
	// PublishedAll does so for many first generations at once and tells which it
	// took; the others are for Published.
	PublishedAll(ctx context.Context, all []records.Publication) ([]bool, error)
	// Shipped ends the line's work.
	Shipped(ctx context.Context, record identity.RecordID, g identity.Generation) error
	// Burned marks the device and its identity as never to be used; where the
	// device went on meanwhile it matches records.ErrConflict.
	Burned(ctx context.Context, id identity.Identity, batch int64, reason string) error
	// BurnUnclaimed does that for an identity that no row knows, and tells
	// whether it is burned now.
	BurnUnclaimed(ctx context.Context, id identity.Identity, batch int64, reason string) (bool, error)
	// AbandonStale burns a next generation on the line; its identity stays the
	// device's in the field.
	AbandonStale(ctx context.Context, record identity.RecordID, g identity.Generation, reason string) error
	// Stale lists generations before their proof of restoration that did not
	// change for so long, by the database's clock, oldest first. Rows that do not
	// parse are an error beside the others.
	Stale(ctx context.Context, age time.Duration, limit int) ([]records.Device, error)
	// QuarantineOnLine sets a record apart that has nothing in the field, and
	// tells whether it did.
	QuarantineOnLine(ctx context.Context, record identity.RecordID, reason string) (bool, error)
	// Outbox lists entries that wait for the registry, oldest first. A row that
	// does not parse is a *records.RowError.
	Outbox(ctx context.Context, limit int) ([]records.Pending, error)
	// SetAside takes a refused entry out of the outbox's way; typ is Pending's.
	SetAside(ctx context.Context, record identity.RecordID, g identity.Generation, typ uint8, reason string) error
	// Noticed is Published for an entry that is no device's own.
	Noticed(ctx context.Context, record identity.RecordID, g identity.Generation, typ uint8, sequence int64) error
	// Unlocked gives the newest unlock statement of a chip; records.ErrNotFound.
	Unlocked(ctx context.Context, record identity.RecordID) (records.Unlock, error)
	// ServiceKey keeps a device's key that is wrapped to the device service's HSM;
	// the first one stays.
	ServiceKey(ctx context.Context, record identity.RecordID, g identity.Generation, entry string, blob []byte) error
	// License commits an audit entry alone.
	License(ctx context.Context, e audit.Event) error
	// Incident keeps what should not have happened.
	Incident(ctx context.Context, i records.Incident) error
	// Waiting counts entries in the outbox and set aside, and tells since when
	// the oldest waits.
	Waiting(ctx context.Context) (waiting, setAside int64, oldest time.Time, err error)
	// Begun counts the generations that a station began since a time.
	Begun(ctx context.Context, station string, since time.Time) (int64, error)
	// Now gives the database's time.
	Now(ctx context.Context) (time.Time, error)
}

// Sequencer is the way into the registry. What it acknowledges is durable
// there; submitting an entry again gives the answer of the first time.
type Sequencer interface {
	Submit(ctx context.Context, submission []byte) ([]sequencer.Ack, error)
}

// AuditLog signs the log's end from time to time.
type AuditLog interface {
	Head(ctx context.Context) (audit.Head, error)
	SignHead(ctx context.Context, sign func(ctx context.Context, payload []byte) ([]byte, error)) (audit.Head, error)
}

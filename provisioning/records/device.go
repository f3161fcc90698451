package records

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
)

// State says how far a generation of a device is.
type State string

// The states; the package comment shows how one leads to another.
const (
	Planned     State = "planned"     // no device row yet: an identity is planned for the chip (Plan)
	Reserved    State = "reserved"    // identity bound, keys licensed
	Packaged    State = "packaged"    // a data package was made
	Confirmed   State = "confirmed"   // the device wrote its flash and sent its backup
	Restored    State = "restored"    // it was erased, restored and booted; its entry waits in the outbox
	Published   State = "published"   // the registry has acknowledged the entry
	Shipped     State = "shipped"     // the device is locked
	Quarantined State = "quarantined" // set apart, by an incident or an operator; Held is the state before
	Scrapped    State = "scrapped"    // out of use for good, and the whole record with it
	Burned      State = "burned"      // never finished; its identity is lost, or stays with an earlier generation in the field
	Superseded  State = "superseded"  // a later generation is published
)

// OnLine reports whether a device in this state is being assembled.
func (s State) OnLine() bool {
	return s == Reserved || s == Packaged || s == Confirmed || s == Restored
}

// InField reports whether the generation is the one that its device holds.
func (s State) InField() bool { return s == Published || s == Shipped }

// Ever reports whether a generation in this state was published.
func (s State) Ever() bool { return s.InField() || s == Superseded }

// SealedSecret is a drawn secret of one entry of the manifest, sealed in the
// HSM: keypackage.Sealed in its encoding.
type SealedSecret struct {
	Entry  string // the entry's name
	Sealed []byte
}

// Device is one generation of one device. Which fields are set follows from the
// state; see the methods that set them.
type Device struct {
	Record     identity.RecordID
	ChipID     identity.ChipID
	Generation identity.Generation
	Identity   identity.Identity
	Batch      int64 // the pool's batch that the identity came from
	Realm      identity.Realm
	Line       string // product line
	Station    string // the station that began the generation
	State      State
	Held       State  // the state before the quarantine; empty else
	Reason     string // why it was quarantined, abandoned, burned or scrapped; the newest
	Suite      keypackage.Suite
	IssuedAt   uint32 // seconds since 1970, for the claims
	KDF        uint8
	Master     uint32         // master key version
	Secrets    []SealedSecret // until publication
	// Points are SHA-256 of the points of its key pairs, as far as the SPP made or
	// imported those. Reserve keeps them; a row that is read has none.
	Points [][32]byte

	Hello       []byte // M1 of the newest transfer
	Point       []byte // e_S of the newest transfer, 65 bytes
	Manifest    []byte
	Claims      []byte
	Certificate []byte
	Package     []byte   // data package of the newest transfer
	X509        [][]byte // certificates of its key pairs, DER, in the profile's order

	Backup    []byte   // backup data package
	Confirm   []byte   // the device's MAC of the confirmation, 32 bytes
	Challenge [32]byte // what the device was asked to prove its restoration with
	Proof     []byte   // the device's MAC of the restoration
	Entry     []byte   // registry entry, kept before it is sent
	Sequence  int64    // the entry's place in the registry, once published

	Licence  int64  // the audit entry that licensed this generation
	Uses     int64  // audit entries that licensed uses of this generation's keys
	SetAside string // why the sequencer refused the entry; empty if it didn't

	Created, Changed        time.Time
	PackagedAt, PublishedAt time.Time // zero before
}

const columns = `record_id, chip_id, generation, identity_type, identity_value, batch, realm, line, station, state,
	suite, issued_at, kdf, master_version, secrets, hello, point, manifest, claims, certificate, package,
	backup, confirm, challenge, proof, entry, coalesce(sequence, 0), licence, uses, coalesce(set_aside, ''),
	created, changed, packaged, published, coalesce(held, ''), reason, x509`

// RowError says that a row holds what no program of this version wrote. The
// chip ID is not in it.
type RowError struct {
	Record     identity.RecordID
	Generation identity.Generation
	Err        error
}

func (e *RowError) Error() string {
	return fmt.Sprintf("device record %s, generation %d: %v", e.Record.Short(), e.Generation, e.Err)
}

func (e *RowError) Unwrap() error { return e.Err }

func scanDevice(scan func(...any) error) (Device, error) {
	var (
		d                   Device
		record, chip        []byte
		kind                uint8
		value               string
		secrets, challenge  []byte
		certificates        []byte
		packaged, published sql.NullTime
	)
	if err := scan(&record, &chip, &d.Generation, &kind, &value, &d.Batch, &d.Realm, &d.Line, &d.Station, &d.State,
		&d.Suite, &d.IssuedAt, &d.KDF, &d.Master, &secrets, &d.Hello, &d.Point, &d.Manifest, &d.Claims, &d.Certificate, &d.Package,
		&d.Backup, &d.Confirm, &challenge, &d.Proof, &d.Entry, &d.Sequence, &d.Licence, &d.Uses, &d.SetAside,
		&d.Created, &d.Changed, &packaged, &published, &d.Held, &d.Reason, &certificates); err != nil {
		return Device{}, err
	}
	d.PackagedAt, d.PublishedAt = packaged.Time, published.Time
	copy(d.Record[:], record)
	copy(d.Challenge[:], challenge)
	bad := func(err error) (Device, error) {
		return d, &RowError{Record: d.Record, Generation: d.Generation, Err: err}
	}
	var err error
	if d.ChipID, err = identity.ParseChipID(chip); err != nil {
		return bad(err)
	}
	if d.ChipID.RecordID() != d.Record {
		return bad(errors.New("its chip ID gives another record id"))
	}
	if d.Identity, err = identity.FromValue(identity.Type(kind), value); err != nil {
		return bad(err)
	}
	if d.Secrets, err = parseSecrets(secrets); err != nil {
		return bad(err)
	}
	if d.X509, err = parseX509(certificates); err != nil {
		return bad(err)
	}
	return d, nil
}

// maxSecrets bounds the encoded secrets of a device, in bytes: 32 entries of
// the longest secret with room for their framing.
const maxSecrets = 1 << 20

// noSecrets is encodeSecrets of none, for SQL: what a row holds once the device has
// its secrets, or will never get them.
const noSecrets = `'\x80'::bytea`

type sealedWire struct {
	_      struct{} `cbor:",toarray"`
	Entry  string
	Sealed []byte
}

func encodeSecrets(secrets []SealedSecret) ([]byte, error) {
	w := make([]sealedWire, len(secrets))
	for i, s := range secrets {
		if _, err := keypackage.ParseSealed(s.Sealed, maxSecrets); err != nil {
			return nil, fmt.Errorf("secret %q is not sealed: %w", s.Entry, err)
		}
		w[i] = sealedWire{Entry: s.Entry, Sealed: s.Sealed}
	}
	b, err := detcbor.Marshal(w)
	if err == nil && len(b) > maxSecrets {
		return nil, fmt.Errorf("sealed secrets of %d bytes, at most %d are kept", len(b), maxSecrets)
	}
	return b, err
}

func parseSecrets(b []byte) ([]SealedSecret, error) {
	var w []sealedWire
	if err := detcbor.Unmarshal(b, &w, maxSecrets); err != nil {
		return nil, fmt.Errorf("sealed secrets: %w", err)
	}
	if w == nil {
		return nil, errors.New("sealed secrets: null in place of a list")
	}
	var secrets []SealedSecret
	for _, s := range w {
		secrets = append(secrets, SealedSecret{Entry: s.Entry, Sealed: s.Sealed})
	}
	return secrets, nil
}

// maxX509 bounds the certificates of a device, in bytes: eight of the longest.
const maxX509 = 32 << 10

func encodeX509(certificates [][]byte) ([]byte, error) {
	if certificates == nil {
		certificates = [][]byte{} // nil would encode as null
	}
	return detcbor.Marshal(certificates)
}

func parseX509(b []byte) ([][]byte, error) {
	var certificates [][]byte
	if err := detcbor.Unmarshal(b, &certificates, maxX509); err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	if certificates == nil || slices.ContainsFunc(certificates, func(c []byte) bool { return c == nil }) {
		return nil, errors.New("certificates: null in place of a list or of a certificate")
	}
	if len(certificates) == 0 {
		return nil, nil
	}
	return certificates, nil
}

// Newest gives the newest generation of a record. It matches ErrNotFound.
func (s *Store) Newest(ctx context.Context, record identity.RecordID) (Device, error) {
	const query = `select ` + columns + ` from device where record_id = $1 order by generation desc limit 1`
	d, err := s.device(ctx, query, record[:])
	if err != nil {
		return Device{}, fmt.Errorf("read record %s: %w", record.Short(), err)
	}
	return d, nil
}

// Get gives one generation of a record. It matches ErrNotFound.
func (s *Store) Get(ctx context.Context, record identity.RecordID, g identity.Generation) (Device, error) {
	const query = `select ` + columns + ` from device where record_id = $1 and generation = $2`
	d, err := s.device(ctx, query, record[:], int64(g))
	if err != nil {
		return Device{}, fmt.Errorf("read record %s, generation %d: %w", record.Short(), g, err)
	}
	return d, nil
}

func (s *Store) device(ctx context.Context, query string, args ...any) (Device, error) {
	d, err := scanDevice(func(into ...any) error { return s.prepared.Row(ctx, query, args, into...) })
	if errors.Is(err, sql.ErrNoRows) {
		return Device{}, ErrNotFound
	}
	if err != nil {
		return Device{}, err
	}
	return d, nil
}

// eachPage is how many rows one query of Each reads: about a megabyte.
const eachPage = 200

// Each calls fn with every generation of every record, in the order of their
// keys; fn may query. Rows that change meanwhile are seen as they are when
// reached. Rows that don't parse are left out and named, each as a *RowError
// joined to the error, after all others were seen. An error of fn ends it.
func (s *Store) Each(ctx context.Context, fn func(Device) error) error {
	const query = `select ` + columns + ` from device where (record_id, generation) > ($1, $2)
		order by record_id, generation limit $3`
	var (
		record identity.RecordID
		g      identity.Generation
		bad    []error
	)
	for {
		page, last, err := s.page(ctx, query, record[:], int64(g), eachPage)
		if err != nil {
			return fmt.Errorf("read device records: %w", err)
		}
		for _, d := range page {
			if d.err != nil {
				bad = append(bad, d.err)
				continue
			}
			if err := fn(d.Device); err != nil {
				return err
			}
		}
		if last == nil || len(page) < eachPage {
			return errors.Join(bad...)
		}
		record, g = last.Record, last.Generation
	}
}

type pageRow struct {
	Device
	err error
}

func (s *Store) page(ctx context.Context, query string, args ...any) (page []pageRow, last *Device, err error) {
	st, err := s.prepared.Prepare(ctx, query)
	if err != nil {
		return nil, nil, err
	}
	rows, err := st.QueryContext(ctx, args...)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	for rows.Next() {
		d, err := scanDevice(rows.Scan)
		if row := (*RowError)(nil); err != nil && !errors.As(err, &row) {
			return nil, nil, err
		}
		page = append(page, pageRow{d, err})
		last = &d
	}
	return page, last, rows.Err()
}

// Begun counts the generations that a station began since a time: what its
// quota is held against. Burned ones count: they were begun.
func (s *Store) Begun(ctx context.Context, station string, since time.Time) (int64, error) {
	var n int64
	err := s.prepared.Row(ctx, `select count(*) from device where station = $1 and created >= $2`, []any{station, since}, &n)
	if err != nil {
		return 0, fmt.Errorf("count what station %q began: %w", station, err)
	}
	return n, nil
}

// was gives the state, for a quarantined generation the one before.
func (d Device) was() State {
	if d.State == Quarantined {
		return d.Held
	}
	return d.State
}

// ended tells whether a generation keeps no sealed secrets any more: the device has
// them, or nobody ever will.
func (d Device) ended() bool {
	return !d.PublishedAt.IsZero() || d.State == Burned || d.State == Scrapped
}

// Counts gives how many rows are in each state, and as Planned how many plans
// wait for their chip.
func (s *Store) Counts(ctx context.Context) (map[State]int64, error) {
	rows, err := s.db.QueryContext(ctx, `select state, count(*) from device group by state
		union all select 'planned', count(*) from plan where taken is null and dropped is null having count(*) > 0`)
	if err != nil {
		return nil, fmt.Errorf("count device records: %w", err)
	}
	defer rows.Close()
	counts := map[State]int64{}
	for rows.Next() {
		var st State
		var n int64
		if err := rows.Scan(&st, &n); err != nil {
			return nil, fmt.Errorf("count device records: %w", err)
		}
		counts[st] = n
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("count device records: %w", err)
	}
	return counts, nil
}

// Package check holds the invariants of docs/design.md against what is stored:
// the one checker, with which every fault test ends and which `auditor check`
// runs against a live system.
//
// It reads; it repairs nothing. The one thing it writes is an entry in the audit
// log before each use of a key, as everybody who uses one must.
//
// # Reading while others write
//
// No transaction spans the databases, so the order of reading stands in for one.
// A step on the line writes in a fixed order (pool, records, registry, records,
// pool), so what must be there once something else is there is read after it; an
// operator's order, for one, is committed with what it orders. What a crash may
// leave for a while, until somebody repairs it, is a violation only when it is
// older than Sources.Grace, by the clock of the records' database. A fault test
// that has let everything settle sets no grace.
package check

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/store"
	"github.com/devicekeys/devicekeys/statement"
)

// Registry is the registry's HTTP side, as any owner sees it; *registry.Client
// is one. It may be behind the registry by the life of its caches.
type Registry interface {
	// Batch gives the newest entry of each record, at most registry.MaxBatch.
	Batch(ctx context.Context, ids []identity.RecordID) (map[identity.RecordID]registry.Found, error)
	// Get gives the entry of one generation. It matches registry.ErrNotFound or registry.ErrErased.
	Get(ctx context.Context, id identity.RecordID, g identity.Generation) (registry.Entry, registry.Served, error)
}

// RegistryStore is the registry's database, as it is; *store.Reader is one.
type RegistryStore interface {
	// Size gives the number of entries.
	Size(ctx context.Context) (int64, error)
	// Range gives entries from a sequence number on. It matches
	// store.ErrDamaged where one is missing or is not what was inserted.
	Range(ctx context.Context, from int64, limit int) ([]store.Row, error)
}

// Keys is the maker's keys in the HSM. Each DeviceKey is preceded by an audit
// entry, committed.
type Keys interface {
	ROMKey() statement.PublicKey
	AuditKey() statement.PublicKey
	// DeviceKey derives a device key again; the caller destroys it.
	DeviceKey(ctx context.Context, key keypackage.KeyID, context []byte) (keypackage.MACKey, error)
	// Inventory lists the token's keys as read back from it.
	Inventory(ctx context.Context) ([]Key, error)
}

// Key is one key of the token.
type Key struct {
	Label       string
	Secret      bool // a secret or private key, not a public one
	Token       bool // it stays when the session ends
	Sensitive   bool
	Extractable bool
}

// Sources is what is checked. The three stores and the realm are needed; what
// else is left out leaves parts of invariants unchecked, which their results say.
type Sources struct {
	Realm   identity.Realm
	Pool    *pool.Store
	Records *records.Store
	Audit   *audit.Log

	Registry      Registry
	RegistryStore RegistryStore
	Keys          Keys

	// ROMKey checks certificates and statements, AuditKey the audit log's signed
	// heads. Left out, they are taken from Keys.
	ROMKey, AuditKey statement.PublicKey
	// Certificates issued by the maker's CAs; each must have its audit entry. The
	// device CAs among them check the devices' certificates.
	Certificates []*x509.Certificate
	// From is an audit head that the auditor kept elsewhere; zero: none.
	From audit.Head

	Actor string        // who checks, for the audit log; "auditor" if empty
	Grace time.Duration // how long what a crash left may wait for its repair
	// ReservationLife is how long house-keeping lets a reservation and a device
	// on the line wait for whoever resumes it. Zero: not looked at.
	ReservationLife time.Duration
}

// Violation is one breach of an invariant.
type Violation struct {
	Device string   `json:"device"` // the record's short id; empty if it concerns no device
	Rows   []string `json:"rows"`   // where to look: table and key
	Cause  string   `json:"cause"`  // what is wrong, and the likely cause
}

// Result is what became of one invariant.
type Result struct {
	Number     int         `json:"number"`     // as in docs/design.md
	Name       string      `json:"name"`       // stable, for programs
	Text       string      `json:"text"`       // the invariant
	Holds      bool        `json:"holds"`      // nothing speaks against it, and all of it could be read
	Checked    int64       `json:"checked"`    // comparisons made
	Found      int64       `json:"found"`      // violations, also those beyond the list
	Violations []Violation `json:"violations"` // at most MaxViolations
	Unread     string      `json:"unread,omitempty"`
	Unchecked  []string    `json:"unchecked,omitempty"` // parts left out, since a source is missing
}

// Report is the result of a run.
type Report struct {
	Realm      identity.Realm `json:"realm"`
	At         time.Time      `json:"at"`
	Devices    int64          `json:"devices"` // generations seen
	Invariants []Result       `json:"invariants"`
	AuditHead  audit.Head     `json:"-"` // where the log was verified to
}

// Holds reports whether every invariant does.
func (r Report) Holds() bool {
	for _, i := range r.Invariants {
		if !i.Holds {
			return false
		}
	}
	return len(r.Invariants) > 0
}

// MaxViolations is how many violations of one invariant a report lists.
const MaxViolations = 200

// The invariants, by their names.
const (
	OneDevice = "one-identity-one-chip"
	Counts    = "pool-counts"
	Proofs    = "restore-proofs"
	Findable  = "published-findable"
	Audited   = "audited"
	NoKeys    = "no-key-outside"
)

var invariants = []Result{
	{Number: 1, Name: OneDevice, Text: "no identity in two active records, no chip with two active identities; pool and records agree; what nobody resumes is burned"},
	{Number: 2, Name: Counts, Text: "imported = free + reserved + used + burned, for each batch and its rows"},
	{Number: 3, Name: Proofs, Text: "every published generation has a restore proof that verifies in the HSM"},
	{Number: 4, Name: Findable, Text: "what is published is found in the registry, what is scrapped is told there, and what is in the registry is known"},
	{Number: 5, Name: Audited, Text: "every use of the maker's keys and every operator's act has its entry in an unbroken audit log"},
	{Number: 6, Name: NoKeys, Text: "what is stored is public, a ciphertext or a MAC; keys stay in the token"},
}

// Run checks all invariants. It always gives a report; a source that can't be
// read makes its invariants fail, and Unread says why.
func Run(ctx context.Context, s Sources) Report {
	c := &checker{Sources: s, report: Report{Realm: s.Realm, At: time.Now().UTC()}, scrapped: map[identity.RecordID]scrap{}}
	for _, i := range invariants {
		i.Violations = []Violation{}
		c.report.Invariants = append(c.report.Invariants, i)
	}
	c.run(ctx)
	for i := range c.report.Invariants {
		r := &c.report.Invariants[i]
		r.Holds = r.Found == 0 && r.Unread == ""
		slices.SortStableFunc(r.Violations, func(a, b Violation) int {
			return cmp.Or(strings.Compare(a.Device, b.Device), slices.Compare(a.Rows, b.Rows))
		})
	}
	return c.report
}

// checker is one run.
type checker struct {
	Sources
	report Report

	ahead   time.Duration // of the records' clock before this one's
	devices []seen        // every generation, for what is compared after the pass
	lines   actives
	// Of the pass over the devices: chips that are out of use, and generations
	// in the field that are set apart.
	scrapped map[identity.RecordID]scrap
	apart    []deviceID
	// Of the pass over the registry: its scrap and erase entries, and how many
	// entries there were.
	ends map[noticeID]end
	size int64
	// certified are the devices' certificates, for what the audit log says of them.
	certified  []certified
	noDeviceCA bool // said that there is no device CA's certificate
	// signed are the notices in the records, each with a statement.
	signed []noticeID
}

func (c *checker) run(ctx context.Context) {
	if err := c.prepare(); err != nil {
		for _, i := range invariants {
			c.unread(i.Name, err)
		}
		return
	}
	c.clock(ctx)
	c.counts(ctx)
	c.everyDevice(ctx)
	c.everyIdentity(ctx)
	c.reservations(ctx)
	c.waitingKeys(ctx)
	c.registryStore(ctx)
	c.notices(ctx)
	c.auditLog(ctx) // last, so that it has the entries of all that was read before
	c.inventory(ctx)
}

// clock finds out how far the records' clock is from this one's, so that what
// stands there is judged by the clock that wrote it. The time of asking counts as
// time gone by.
func (c *checker) clock(ctx context.Context) {
	asked := time.Now()
	now, err := c.Records.Now(ctx)
	if err != nil {
		c.unread(OneDevice, err)
		return
	}
	c.ahead = now.Sub(asked)
}

func (c *checker) prepare() error {
	if c.Pool == nil || c.Records == nil || c.Audit == nil || !c.Realm.Valid() {
		return errors.New("pool, records, audit log and realm are needed")
	}
	if c.Actor == "" {
		c.Actor = "auditor"
	}
	if c.Keys == nil {
		c.leftOut(Proofs, "no token: proofs are there, but were not verified")
		c.leftOut(NoKeys, "no token: its keys were not looked at")
	} else {
		rom, auditKey := c.Keys.ROMKey(), c.Keys.AuditKey()
		if c.ROMKey != (statement.PublicKey{}) && c.ROMKey != rom || c.AuditKey != (statement.PublicKey{}) && c.AuditKey != auditKey {
			return errors.New("the token's keys are not the public ones that are configured: it is another token, or they are of another one")
		}
		c.ROMKey, c.AuditKey = rom, auditKey
	}
	if c.ROMKey.IsZero() {
		c.leftOut(Findable, "no ROM key: certificates and statements were not verified")
	}
	if c.AuditKey.IsZero() {
		c.leftOut(Audited, "no audit key: signed heads were not verified")
	}
	if c.Registry == nil {
		c.leftOut(Findable, "no registry address: nothing was looked up")
	}
	if c.RegistryStore == nil {
		c.leftOut(Findable, "no registry database: sequence and leaf hashes were not looked at")
	}
	return nil
}

func (c *checker) result(name string) *Result {
	for i := range c.report.Invariants {
		if c.report.Invariants[i].Name == name {
			return &c.report.Invariants[i]
		}
	}
	return nil // names are this package's constants
}

// checked counts comparisons.
func (c *checker) checked(name string, n int64) { c.result(name).Checked += n }

func (c *checker) leftOut(name, what string) {
	r := c.result(name)
	r.Unchecked = append(r.Unchecked, what)
}

// unread notes that a source of an invariant could not be read.
func (c *checker) unread(name string, err error) {
	if r := c.result(name); r.Unread == "" {
		r.Unread = err.Error()
	}
}

// violated notes a violation.
func (c *checker) violated(name string, record identity.RecordID, rows []string, format string, args ...any) {
	r := c.result(name)
	if r.Found++; r.Found > MaxViolations {
		return
	}
	v := Violation{Rows: rows, Cause: fmt.Sprintf(format, args...)}
	if record != (identity.RecordID{}) {
		v.Device = record.Short()
	}
	r.Violations = append(r.Violations, v)
}

func rows(r ...string) []string { return r }

func deviceRow(record identity.RecordID, g identity.Generation) string {
	return fmt.Sprintf("records.device %s/%d", record.Short(), g)
}

func useRow(id identity.Identity) string { return fmt.Sprintf("records.identity_use %s", id) }

func poolRow(id identity.Identity) string { return fmt.Sprintf("pool.waiting %s", id) }

package records

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/identity"
)

// Order is an operator's word for an act: who and why. Both are needed, and both
// go into the audit log: printable text in one line.
type Order struct {
	Operator string // 1 to 128 bytes
	Reason   string // 1 to 1024 bytes
}

// maxOperator bounds an operator's name, in bytes.
const maxOperator = 128

func (o Order) check() error {
	for _, t := range []struct {
		name, text string
		max        int
	}{{"operator", o.Operator, maxOperator}, {"reason", o.Reason, maxReason}} {
		if t.text == "" || len(t.text) > t.max {
			return fmt.Errorf("the %s has %d bytes: 1 to %d are needed", t.name, len(t.text), t.max)
		}
		if !printable(t.text) {
			return fmt.Errorf("the %s has characters that can't be printed: write it in one line", t.name)
		}
	}
	return nil
}

// printable tells whether the audit log takes a text.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// Act names what an operator did.
type Act string

// The acts of operators. Each is one transaction with its audit entry, of kind
// audit.Order.
const (
	ActScrap      Act = "scrap"
	ActQuarantine Act = "quarantine"
	ActRelease    Act = "release"
	ActReturn     Act = "return"
	ActAbandon    Act = "abandon"
	ActSwap       Act = "swap"   // a board swap was planned
	ActUnplan     Act = "unplan" // the plan was taken back
	ActRevoke     Act = "revoke"
	ActPutBack    Act = "put-back"
	ActBurn       Act = "burn"
	// Keys for identities of a product line, which is the subject; the reason
	// says how many and which.
	ActGenerateKeys Act = "generate-keys"
	ActImportKeys   Act = "import-keys"
)

// Ordered is an act that was carried out.
type Ordered struct {
	ID         int64
	Act        Act
	Record     identity.RecordID   // zero where the act is about a station, or an identity that no device has
	Generation identity.Generation // zero where it is about no generation
	Subject    string              // the station, the identity, the other record; empty where the record says it all
	Order
	Entry int64 // the audit entry that stands for it
	At    time.Time
}

// event is the audit entry of an act.
func (o Ordered) event() audit.Event {
	note := string(o.Act)
	if o.Subject != "" {
		note += " " + o.Subject
	}
	return audit.Event{
		Kind: audit.Order, Record: o.Record, Generation: o.Generation,
		Actor: "operator " + o.Operator, Note: note + ": " + o.Reason,
	}
}

// keep writes the act and its audit entry in the caller's transaction, as its last
// statement: it holds the head of the log until the commit.
func (o Ordered) keep(ctx context.Context, tx *sql.Tx) error {
	body, err := o.event().Encode()
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `insert into operator_order (act, record_id, generation, subject, reason, operator, entry)
		values ($1, nullif($2, ''::bytea), $3, $4, $5, $6, audit_append($7))`,
		string(o.Act), bytesOf(o.Record), int64(o.Generation), o.Subject, o.Reason, o.Operator, body)
	return err
}

// bytesOf gives a record id as the database has it: empty where it is zero.
func bytesOf(record identity.RecordID) []byte {
	if record == (identity.RecordID{}) {
		return []byte{}
	}
	return record[:]
}

// act runs an operator's act in one transaction. do changes what is to be changed
// and says what was done; where it says nothing (no act), all was so before and
// no order is kept.
func (s *Store) act(ctx context.Context, o Order, do func(tx *sql.Tx) (Ordered, error)) error {
	if err := o.check(); err != nil {
		return err
	}
	return database.InTx(ctx, s.db, nil, func(tx *sql.Tx) error {
		done, err := do(tx)
		if err != nil || done.Act == "" {
			return err
		}
		done.Order = o
		return done.keep(ctx, tx)
	})
}

const orderedQuery = `select id, act, coalesce(record_id, ''), generation, subject, reason, operator, entry, at from operator_order`

// Orders gives the acts on a record, oldest first.
func (s *Store) Orders(ctx context.Context, record identity.RecordID) ([]Ordered, error) {
	all, err := s.ordered(ctx, orderedQuery+` where record_id = $1 order by id`, record[:])
	if err != nil {
		return nil, fmt.Errorf("read orders, record %s: %w", record.Short(), err)
	}
	return all, nil
}

// EachOrder calls fn with every act, oldest first; fn may query. An error of fn
// ends it.
func (s *Store) EachOrder(ctx context.Context, fn func(Ordered) error) error {
	last := int64(0)
	for {
		page, err := s.ordered(ctx, orderedQuery+` where id > $1 order by id limit $2`, last, eachPage)
		if err != nil {
			return fmt.Errorf("read orders: %w", err)
		}
		for _, o := range page {
			if err := fn(o); err != nil {
				return err
			}
			last = o.ID
		}
		if len(page) < eachPage {
			return nil
		}
	}
}

func (s *Store) ordered(ctx context.Context, query string, args ...any) ([]Ordered, error) {
	var all []Ordered
	err := s.prepared.Each(ctx, func(scan func(...any) error) error {
		var o Ordered
		var record []byte
		if err := scan(&o.ID, &o.Act, &record, &o.Generation, &o.Subject, &o.Reason, &o.Operator, &o.Entry, &o.At); err != nil {
			return err
		}
		copy(o.Record[:], record)
		all = append(all, o)
		return nil
	}, query, args...)
	return all, err
}

// needReason refuses an act of the SPP's own without a reason.
func needReason(reason string) error {
	if reason == "" {
		return errors.New("a reason is needed")
	}
	return nil
}

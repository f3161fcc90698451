package records

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/identity"
)

// Unlock is a signed statement that lets a locked chip take one next generation.
type Unlock struct {
	Record    identity.RecordID
	Next      identity.Generation
	Statement []byte
	Reason    string
	Operator  string
	At        time.Time
}

// Unlock keeps an unlock statement. Its signing was licensed before (License).
// The same again is a no-op: the first statement for a generation stays, since
// all of them say the same; another reason or operator is an ErrConflict.
//
// A crash between signing and keeping loses a statement that nobody saw.
func (s *Store) Unlock(ctx context.Context, record identity.RecordID, next identity.Generation, statement []byte, reason, operator string) error {
	fail := func(err error) error {
		return fmt.Errorf("keep unlock statement, record %s, generation %d: %w", record.Short(), next, err)
	}
	if len(statement) == 0 || reason == "" || operator == "" {
		return fail(errors.New("statement, reason and operator are needed"))
	}
	const query = `insert into unlock (record_id, generation, statement, reason, operator)
		values ($1, $2, $3, $4, $5) on conflict do nothing`
	n, err := s.prepared.Exec(ctx, query, record[:], int64(next), statement, reason, operator)
	if err != nil {
		return fail(err)
	}
	if n == 1 {
		return nil
	}
	have, err := s.unlock(ctx, ` and generation = $2`, record[:], int64(next))
	if err != nil {
		return fail(err)
	}
	if have.Reason != reason || have.Operator != operator {
		return fail(fmt.Errorf("%w: there is one by another operator or for another reason", ErrConflict))
	}
	return nil
}

// Unlocked gives the newest unlock statement of a record. It matches
// ErrNotFound. Whether its generation was taken since, the device row tells.
func (s *Store) Unlocked(ctx context.Context, record identity.RecordID) (Unlock, error) {
	u, err := s.unlock(ctx, ``, record[:])
	if err != nil {
		return Unlock{}, fmt.Errorf("read unlock statement, record %s: %w", record.Short(), err)
	}
	return u, nil
}

const unlockQuery = `select record_id, generation, statement, reason, operator, at from unlock`

func (s *Store) unlock(ctx context.Context, and string, args ...any) (Unlock, error) {
	st, err := s.prepared.Prepare(ctx, unlockQuery+` where record_id = $1`+and+` order by generation desc limit 1`)
	if err != nil {
		return Unlock{}, err
	}
	u, err := scanUnlock(st.QueryRowContext(ctx, args...).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return Unlock{}, ErrNotFound
	}
	return u, err
}

func scanUnlock(scan func(...any) error) (Unlock, error) {
	var u Unlock
	var record []byte
	if err := scan(&record, &u.Next, &u.Statement, &u.Reason, &u.Operator, &u.At); err != nil {
		return Unlock{}, err
	}
	copy(u.Record[:], record)
	return u, nil
}

// EachUnlock calls fn with every unlock statement.
func (s *Store) EachUnlock(ctx context.Context, fn func(Unlock) error) error {
	var last Unlock
	for {
		page, err := s.unlockPage(ctx, last)
		if err != nil {
			return fmt.Errorf("read unlock statements: %w", err)
		}
		for _, u := range page {
			if err := fn(u); err != nil {
				return err
			}
			last = u
		}
		if len(page) < eachPage {
			return nil
		}
	}
}

func (s *Store) unlockPage(ctx context.Context, after Unlock) ([]Unlock, error) {
	rows, err := s.db.QueryContext(ctx, unlockQuery+` where (record_id, generation) > ($1, $2) order by record_id, generation limit $3`,
		bytes.Clone(after.Record[:]), int64(after.Next), eachPage)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var page []Unlock
	for rows.Next() {
		u, err := scanUnlock(rows.Scan)
		if err != nil {
			return nil, err
		}
		page = append(page, u)
	}
	return page, rows.Err()
}

package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/lib/pq"
)

const (
	// maxAttempts bounds the repetitions of a transaction that keeps losing. With
	// the pauses below a caller waits 1.3 s at most for all of them; a transaction
	// that loses eight times in a row has a design problem.
	maxAttempts = 8

	// firstPause and maxPause bound the pause before a repetition: about the length
	// of a transaction at first, doubled each time, drawn from half to the whole so
	// that two losers don't meet again.
	firstPause = 5 * time.Millisecond
	maxPause   = 250 * time.Millisecond
)

// InTx runs f in a transaction with opts (nil: read committed, read-write) and commits
// it if f returns nil, else rolls it back and returns f's error.
//
// Where Postgres reports that the transaction lost against another one and was rolled
// back (40001, 40P01), be it within f or at the commit, InTx runs it again, up to
// eight times with short random pauses. So f must have no effect but on its
// transaction, and set anew whatever it assigns outside. Its error must wrap the driver's
// (%w) for this to work.
//
// Nothing else is repeated. If the connection breaks during the commit, the error is
// [ErrCommitUnknown]: the transaction may have happened. Callers that repeat after
// that, or after any [Transient] error, must be idempotent: insert, on a unique
// violation read back and compare.
func InTx(ctx context.Context, db *sql.DB, opts *sql.TxOptions, f func(*sql.Tx) error) error {
	return repeat(ctx, "transaction", func() error { return once(ctx, db, opts, f) })
}

// repeat runs what Postgres rolled back because of another one again, as InTx tells.
func repeat(ctx context.Context, what string, run func() error) error {
	for attempt := 1; ; attempt++ {
		err := run()
		if err == nil || !conflict(code(err)) || errors.Is(err, ErrCommitUnknown) {
			return err
		}
		if attempt == maxAttempts {
			return fmt.Errorf("run %s: lost against others %d times: %w", what, attempt, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("run %s: %w (after losing against others: %w)", what, ctx.Err(), err)
		case <-time.After(pause(attempt)):
		}
	}
}

// pause before the repetition that follows the given attempt.
func pause(attempt int) time.Duration {
	p := min(firstPause<<(attempt-1), maxPause)
	return p/2 + rand.N(p/2+1)
}

// once runs f in one transaction.
func once(ctx context.Context, db *sql.DB, opts *sql.TxOptions, f func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, opts)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	defer tx.Rollback() // after a commit it does nothing; after a panic in f it is needed
	if err := f(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return commitError(ctx, err)
	}
	return nil
}

// commitError tells a commit that didn't happen from one that may have.
func commitError(ctx context.Context, err error) error {
	switch c := code(err); {
	case errors.Is(err, ErrCommitUnknown):
		return fmt.Errorf("commit transaction: %w", err)
	case errors.Is(err, sql.ErrTxDone):
		// Rolled back before: the context ended, or f ended the transaction itself.
		return fmt.Errorf("commit transaction: rolled back: %w", errors.Join(err, ctx.Err()))
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		// database/sql saw the end of the context before it sent anything.
		return fmt.Errorf("commit transaction: not sent: %w", err)
	case errors.Is(err, pq.ErrInFailedTransaction):
		return fmt.Errorf("commit transaction: rolled back, since a statement in it had failed: %w", err)
	case c != "" && c.Class() != "08" && !stopping(c):
		// The server answered, so it knows: it rolled back.
		return fmt.Errorf("commit transaction: %w", err)
	default:
		return fmt.Errorf("commit transaction: %w: %w", ErrCommitUnknown, err)
	}
}

package issued

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/devicekeys/devicekeys/database"
)

// ErrLag says that the database is a replica that isn't known to have been up to date recently enough: its answers would
// be older than they look.
var ErrLag = errors.New("the replica of the records lags behind")

// lagEvery is how often a replica is asked how far it is: its answers may be older than the bound by so much.
const lagEvery = time.Second

// replica watches how old the answers of a database are that may be a standby. It is safe for concurrent use.
//
// A standby cut off from its primary answers as ever, with what it has, and what it says of itself looks the same as with
// a primary that has nothing to do. So two things count: whether its WAL receiver is connected (any role sees that it
// runs; Postgres ends it wal_receiver_timeout after the last sign of the primary), and whether all that was received
// has been replayed, or else how old the last replayed commit is.
type replica struct {
	prepared *database.Statements
	most     time.Duration // 0: nothing is asked

	mu      sync.Mutex // held while the database is asked: one asks, others have its answer
	asked   time.Time  // when it was asked last
	current time.Time  // up to when its answers are known to be whole
	err     error      // what came of it
}

const lagQuery = `select pg_is_in_recovery(),
	exists(select from pg_stat_get_wal_receiver() r where r.pid is not null),
	coalesce(pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn(), false),
	coalesce(extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp())::double precision, -1)`

// position is how far a database says it is.
type position struct {
	standby, streams, replayed bool
	behind                     float64 // seconds since the last replayed commit; -1: there was none
}

// check matches ErrLag where the database is a standby that lags by more than the bound. Any other error is the
// database's.
func (r *replica) check(ctx context.Context) error {
	if r.most <= 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.asked.IsZero() && time.Since(r.asked) < lagEvery {
		return r.err
	}
	r.asked = time.Now() // before the question: what it says is at least as old
	r.err = r.ask(ctx, r.asked)
	return r.err
}

// ask asks the database. Needs r.mu.
func (r *replica) ask(ctx context.Context, now time.Time) error {
	p, err := bounded(ctx, func(ctx context.Context) (p position, err error) {
		err = r.prepared.Row(ctx, lagQuery, nil, &p.standby, &p.streams, &p.replayed, &p.behind)
		return p, err
	})
	if err != nil {
		return fmt.Errorf("ask how far the replica is: %w", err)
	}
	switch {
	case !p.standby, p.streams && p.replayed:
		r.current = now
	case p.behind >= 0:
		if as := now.Add(-time.Duration(p.behind * float64(time.Second))); as.After(r.current) {
			r.current = as
		}
	}
	if age := now.Sub(r.current); age > r.most {
		if r.current.IsZero() {
			return fmt.Errorf("%w: it was never seen up to date (connected to its primary: %v)", ErrLag, p.streams)
		}
		return fmt.Errorf("%w: by %s, %s is allowed (connected to its primary: %v)", ErrLag, age.Round(time.Second), r.most, p.streams)
	}
	return nil
}

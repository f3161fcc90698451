package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/database"
)

// event is something that is done to the cluster.
type event struct {
	title string
	// node tells whom it is done to, or with a name, who has that one's part now.
	node func(ctx context.Context, not string) (string, error)
	// act does it. It may return before another node has the part.
	act   func(ctx context.Context, node string) error
	kills bool // the node has to be started again
}

// events come in this order.
func (f *factory) events() []event {
	kill := func(_ context.Context, node string) error { return f.ha.Kill(node) }
	hand := func(ctx context.Context, _ string) error { _, err := f.ha.Switchover(ctx); return err }
	return []event{
		{"kill -9 of the leader", f.ha.AwaitLeader, kill, true},
		{"kill -9 of the new leader", f.ha.AwaitLeader, kill, true},
		{"kill -9 of the synchronous standby", f.ha.AwaitStandby, kill, true},
		{"switchover", f.ha.AwaitLeader, hand, false},
	}
}

const (
	// resumeBound bounds the wait for the line to go on: a lease of 20 s, an election, a
	// station's longest pause, and many times that.
	resumeBound = 3 * time.Minute

	// look is the pause between two looks at the records.
	look = 25 * time.Millisecond

	// lookBound bounds one look, as everything that waits for a database has to be bounded.
	lookBound = 5 * time.Second
)

// watch looks at the records while the line works, as a program does: through the
// same DSN, over the same failovers.
type watch struct {
	f        *factory
	db       *sql.DB
	ended    <-chan struct{} // closed when the line is done with its share
	failures int             // looks that failed, for a reason that passes
}

func (f *factory) watch(ctx context.Context) (*watch, error) {
	db, err := database.Open(ctx, database.Config{DSN: f.ha.DSN("records", "auditor"), PasswordFile: f.password("auditor"), MaxConns: 2})
	if err != nil {
		return nil, err
	}
	return &watch{f: f, db: db}, nil
}

// seen is one look at the records.
type seen struct {
	shipped              int
	changed, lastShipped time.Time // newest change of a device, newest that was shipped
}

// see looks until it succeeds. An error that doesn't pass ends the trial: no program could go on from there.
func (w *watch) see(ctx context.Context) (seen, error) {
	const query = `select count(*) filter (where state = 'shipped'), coalesce(max(changed), 'epoch'),
		coalesce(max(changed) filter (where state = 'shipped'), 'epoch') from device`
	ctx, cancel := context.WithTimeout(ctx, resumeBound)
	defer cancel()
	for {
		var s seen
		one, end := context.WithTimeout(ctx, lookBound)
		err := w.db.QueryRowContext(one, query).Scan(&s.shipped, &s.changed, &s.lastShipped)
		late := one.Err() != nil && ctx.Err() == nil
		end()
		if err == nil {
			return s, nil
		}
		if !database.Transient(err) && !late {
			return s, fmt.Errorf("look at the records: an error that doesn't pass: %w", err)
		}
		w.failures++
		if err := pause(ctx, look); err != nil {
			return s, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// errEnded: there was no work left to be disturbed.
var errEnded = errors.New("all devices were done before: take more of them (DEVICES)")

// until looks until something is so.
func (w *watch) until(ctx context.Context, is func(seen) bool) error {
	for {
		s, err := w.see(ctx)
		if err != nil || is(s) {
			return err
		}
		select {
		case <-w.ended:
			return errEnded
		default:
		}
		if err := pause(ctx, look); err != nil {
			return err
		}
	}
}

// Resumption is what an event did to the line.
type Resumption struct {
	Event   string  `json:"event"`
	Node    string  `json:"node"` // that was killed, or handed the lead over
	Before  int     `json:"shipped_before"`
	Settled float64 `json:"settled_seconds"`       // from the event until another node had the part
	Written float64 `json:"without_write_seconds"` // the longest time without a change of any device's record
	Shipped float64 `json:"without_ship_seconds"`  // the longest time without a device shipped
	Whole   float64 `json:"rejoined_seconds"`      // from its start until the killed node followed again, and all were well
}

// strike waits until so many devices are shipped, carries an event out and measures. The cluster is whole
// before and after: two faults at once are more than three nodes promise to bear.
func (w *watch) strike(ctx context.Context, e event, after int) (Resumption, error) {
	r := Resumption{Event: e.title}
	var err error
	if r.Node, err = e.node(ctx, ""); err != nil {
		return r, err
	}
	if err := w.until(ctx, func(s seen) bool { r.Before = s.shipped; return s.shipped >= after }); err != nil {
		return r, err
	}
	bounded, cancel := context.WithTimeout(ctx, resumeBound)
	defer cancel()
	var writes, ships gap
	if err := w.until(bounded, func(s seen) bool { writes.see(s.changed); ships.see(s.lastShipped); return true }); err != nil {
		return r, err
	}
	start := time.Now()
	settled := make(chan error, 1)
	go func() { // ends with its context
		err := e.act(bounded, r.Node)
		if err == nil {
			_, err = e.node(bounded, r.Node)
		}
		r.Settled = time.Since(start).Seconds()
		settled <- err
	}()
	if err := w.settle(bounded, settled, &writes, &ships); err != nil {
		return r, err
	}
	r.Written, r.Shipped = writes.longest.Seconds(), ships.longest.Seconds()
	if e.kills {
		if err := w.f.ha.StartNode(r.Node); err != nil {
			return r, err
		}
	}
	back := time.Now()
	err = w.f.ha.AwaitWhole(ctx)
	if e.kills {
		r.Whole = time.Since(back).Seconds()
	}
	return r, err
}

// gap is the longest time between two looks that saw something new.
type gap struct {
	newest  time.Time // what was seen
	at      time.Time // when it was
	longest time.Duration
}

func (g *gap) see(newest time.Time) (fresh bool) {
	now := time.Now()
	if g.at.IsZero() {
		g.newest, g.at = newest, now
	}
	if fresh = newest.After(g.newest); fresh {
		g.longest = max(g.longest, now.Sub(g.at))
		g.newest, g.at = newest, now
	}
	return fresh
}

// settle measures how long nothing was seen to happen, until the event has settled and another device was
// shipped.
func (w *watch) settle(ctx context.Context, settled <-chan error, writes, ships *gap) error {
	var eventErr error
	over := false
	err := w.until(ctx, func(s seen) bool {
		writes.see(s.changed)
		if ships.see(s.lastShipped) && over {
			return true
		}
		select {
		case eventErr = <-settled:
			over = true
		default:
		}
		return eventErr != nil
	})
	return errors.Join(err, eventErr)
}

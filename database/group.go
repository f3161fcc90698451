package database

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// groupPatience bounds how long a call waits for the one under way. A statement and
	// its commit take a few milliseconds; whoever waited longer is behind one that
	// stands at a lock, which is no business of theirs.
	groupPatience = 100 * time.Millisecond

	// groupTimeout bounds a statement that serves several calls: none of them
	// ends it. It ends long before the callers' own patience does.
	groupTimeout = 5 * time.Second

	// groupMost is how many calls one statement serves at most.
	groupMost = 64
)

// Group has calls of one kind share a statement, and so a round trip and a commit, where many
// come at once: a call that finds none of its kind under way goes alone; those that come
// meanwhile wait for it and then go together. Under no load that is what each
// call would have done by itself; under load the database sees fewer and larger
// transactions, and locks that all of them need are taken once for all.
//
// Together is an opportunity, never the last word. A call that it leaves out, for
// whatever reason, or that waited longer than 100 ms, or all of them after an error, go alone
// afterwards and find out for themselves. So one row that is locked, or one call that
// must be refused, holds up or fails no other. A call may therefore be tried twice where
// an error hid that the first try took effect: calls must be repeatable, as those of the
// stores are.
//
// A Group is safe for concurrent use.
type Group[T, R any] struct {
	together func(context.Context, []T) ([]*R, error)

	mu    sync.Mutex // guards what follows
	busy  bool       // a call, or several together, are under way
	queue []*groupCall[T, R]
}

// NewGroup makes a Group. together runs several calls in one transaction, 2 to 64 of them, within 5 s. It
// gives the result of each in their order, nil for those that are to go alone. It must not wait
// for locks that are held for long (skip locked): others wait for it.
func NewGroup[T, R any](together func(context.Context, []T) ([]*R, error)) *Group[T, R] {
	return &Group[T, R]{together: together}
}

// groupCall is a call that waits.
type groupCall[T, R any] struct {
	item T
	word chan groupWord[T, R] // one place, filled once, when the call left the queue
}

// groupWord is what a call that waited is told: lead these, yours first; or here is your result; or, both
// being nil, go alone.
type groupWord[T, R any] struct {
	lead   []*groupCall[T, R]
	result *R
}

// Do runs a call: by alone, or together with others.
func (g *Group[T, R]) Do(ctx context.Context, item T, alone func(context.Context) (R, error)) (R, error) {
	g.mu.Lock()
	if !g.busy {
		g.busy = true
		g.mu.Unlock()
		defer g.next()
		return alone(ctx)
	}
	c := &groupCall[T, R]{item: item, word: make(chan groupWord[T, R], 1)}
	g.queue = append(g.queue, c)
	g.mu.Unlock()

	w := g.wait(ctx, c)
	if w.lead != nil {
		defer g.next()
		w.result = g.lead(ctx, w.lead)
	}
	if w.result != nil {
		return *w.result, nil
	}
	if err := ctx.Err(); err != nil {
		var none R
		return none, fmt.Errorf("wait for another statement: %w", err)
	}
	return alone(ctx)
}

// wait waits for the word, or leaves the queue: then it is to go alone.
func (g *Group[T, R]) wait(ctx context.Context, c *groupCall[T, R]) groupWord[T, R] {
	patience := time.NewTimer(groupPatience)
	defer patience.Stop()
	select {
	case w := <-c.word:
		return w
	case <-patience.C:
	case <-ctx.Done():
	}
	g.mu.Lock()
	i := slices.Index(g.queue, c)
	if i >= 0 {
		g.queue = slices.Delete(g.queue, i, i+1)
	}
	g.mu.Unlock()
	if i >= 0 {
		return groupWord[T, R]{}
	}
	return <-c.word // its turn came in the same moment; whoever leads is bound by groupTimeout
}

// lead runs calls together and tells all but the first, which it serves, how theirs ended.
func (g *Group[T, R]) lead(ctx context.Context, calls []*groupCall[T, R]) (own *R) {
	results := make([]*R, len(calls))
	defer func() { // after a panic too: nobody may wait for ever
		for i, c := range calls[1:] {
			c.word <- groupWord[T, R]{result: results[i+1]}
		}
	}()
	if len(calls) == 1 {
		return nil
	}
	items := make([]T, len(calls))
	for i, c := range calls {
		items[i] = c.item
	}
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), groupTimeout)
	defer cancel()
	// After an error the outcome may be unknown: each call finds out its own, alone.
	if all, err := g.together(bound, items); err == nil && len(all) == len(calls) {
		copy(results, all)
	}
	return results[0]
}

// next ends a turn and gives the next one to those that wait.
func (g *Group[T, R]) next() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.queue) == 0 {
		g.busy = false
		return
	}
	n := min(len(g.queue), groupMost)
	calls := slices.Clone(g.queue[:n])
	g.queue = slices.Delete(g.queue, 0, n)
	calls[0].word <- groupWord[T, R]{lead: calls}
}

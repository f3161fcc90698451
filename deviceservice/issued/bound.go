package issued

import (
	"context"
	"time"
)

// lookupTime bounds one look into the database: a row by an index, or the wait for a connection in a burst.
const lookupTime = 3 * time.Second

// bounded asks the database, and gives up after lookupTime. The driver alone does not: it asks the server to cancel and
// goes on reading, and a server that hangs, or a network that swallows everything, answers neither. A question that was
// given up holds its connection until that ends, after 20 s where the peer is gone (package database), so there are
// never more of them than connections; what it reads then goes nowhere.
func bounded[T any](ctx context.Context, ask func(ctx context.Context) (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	through := make(chan answer, 1)
	go func() {
		defer cancel()
		value, err := ask(ctx)
		through <- answer{value, err}
	}()
	select {
	case a := <-through:
		return a.value, a.err
	case <-ctx.Done():
	}
	select {
	case a := <-through: // cancel came with it
		return a.value, a.err
	default:
		var none T
		return none, context.Cause(ctx)
	}
}

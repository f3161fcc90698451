package database_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/devicekeys/devicekeys/database"
)

var errGroup = errors.New("refused")

// grouped counts how calls went.
type grouped struct {
	group    *database.Group[int, int]
	mu       sync.Mutex
	together [][]int
	alone    []int
}

// newGrouped makes a group whose calls double a number and take a second; with answers them together.
func newGrouped(with func([]int) ([]*int, error)) *grouped {
	g := &grouped{}
	g.group = database.NewGroup(func(ctx context.Context, all []int) ([]*int, error) {
		g.mu.Lock()
		g.together = append(g.together, all)
		g.mu.Unlock()
		time.Sleep(statementTakes)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return with(all)
	})
	return g
}

const statementTakes = 10 * time.Millisecond

func (g *grouped) do(ctx context.Context, n int) (int, error) {
	return g.group.Do(ctx, n, func(ctx context.Context) (int, error) {
		g.mu.Lock()
		g.alone = append(g.alone, n)
		g.mu.Unlock()
		time.Sleep(statementTakes)
		if n < 0 {
			return 0, errGroup
		}
		return 2 * n, ctx.Err()
	})
}

// doubled answers all but what is below zero.
func doubled(all []int) ([]*int, error) {
	out := make([]*int, len(all))
	for i, n := range all {
		if n >= 0 {
			twice := 2 * n
			out[i] = &twice
		}
	}
	return out, nil
}

// crowd makes calls 1 to n come while call 0 is under way, and checks their answers.
func (g *grouped) crowd(t *testing.T, n int) {
	t.Helper()
	var group sync.WaitGroup
	group.Go(func() { g.check(t, 0) })
	synctest.Wait()
	for i := 1; i <= n; i++ {
		group.Go(func() { g.check(t, i) })
		synctest.Wait()
	}
	group.Wait()
}

func (g *grouped) check(t *testing.T, n int) {
	if got, err := g.do(t.Context(), n); err != nil || got != 2*n {
		t.Errorf("call %d: %d, %v; want %d", n, got, err, 2*n)
	}
}

func TestGroup(t *testing.T) {
	t.Parallel()
	t.Run("quiet", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newGrouped(doubled)
			for i := range 3 {
				g.check(t, i)
			}
			if len(g.alone) != 3 || len(g.together) != 0 {
				t.Errorf("alone %v, together %v", g.alone, g.together)
			}
		})
	})
	t.Run("crowd", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newGrouped(doubled)
			g.crowd(t, 100)
			if len(g.alone) != 1 || len(g.together) != 2 || len(g.together[0]) != 64 || len(g.together[1]) != 36 {
				t.Errorf("alone %v, together %v", g.alone, g.together)
			}
			if g.together[0][0] != 1 || g.together[1][0] != 65 {
				t.Errorf("not in their order: %v", g.together)
			}
		})
	})
	t.Run("two wait", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newGrouped(doubled)
			g.crowd(t, 1) // only one waits: it goes alone in its turn
			if len(g.alone) != 2 || len(g.together) != 0 {
				t.Errorf("alone %v, together %v", g.alone, g.together)
			}
		})
	})
	t.Run("error", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newGrouped(func([]int) ([]*int, error) { return nil, errGroup })
			g.crowd(t, 5)
			if len(g.alone) != 6 || len(g.together) != 1 {
				t.Errorf("alone %v, together %v", g.alone, g.together)
			}
		})
	})
	t.Run("panic", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newGrouped(func([]int) ([]*int, error) { panic("in the statement") })
			var group sync.WaitGroup
			var panicked atomic.Int32
			group.Go(func() { g.check(t, 0) })
			synctest.Wait()
			for i := 1; i <= 3; i++ {
				group.Go(func() {
					defer func() {
						if recover() != nil {
							panicked.Add(1)
						}
					}()
					g.check(t, i)
				})
				synctest.Wait()
			}
			group.Wait()
			if panicked.Load() != 1 {
				t.Errorf("%d calls panicked, want the one that led", panicked.Load())
			}
			g.check(t, 7) // the group goes on
		})
	})
}

func TestGroupLeavesOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGrouped(doubled)
		var group sync.WaitGroup
		group.Go(func() { g.check(t, 0) })
		synctest.Wait()
		for i := 1; i <= 4; i++ {
			group.Go(func() { g.check(t, i) })
		}
		group.Go(func() {
			if _, err := g.do(t.Context(), -1); !errors.Is(err, errGroup) {
				t.Errorf("the call that is to be refused: %v", err)
			}
		})
		group.Wait()
		if got := fmt.Sprint(g.alone); got != "[0 -1]" {
			t.Errorf("alone %s", got)
		}
	})
}

// Whoever waits behind a call that stands at a lock goes alone after a while.
func TestGroupPatience(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGrouped(doubled)
		stands := make(chan struct{})
		var group sync.WaitGroup
		group.Go(func() {
			g.group.Do(t.Context(), 0, func(context.Context) (int, error) { <-stands; return 0, nil })
		})
		synctest.Wait()
		begun := time.Now()
		g.check(t, 1)
		if took := time.Since(begun); took > 200*time.Millisecond {
			t.Errorf("it waited %s for another's lock", took)
		}
		close(stands)
		group.Wait()
		g.check(t, 2)
	})
}

func TestGroupContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGrouped(doubled)
		ended, end := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() { g.check(t, 0) })
		synctest.Wait()
		group.Go(func() { // first of those that wait; it leaves
			if _, err := g.do(ended, 1); !errors.Is(err, context.Canceled) {
				t.Errorf("a call whose context ended: %v", err)
			}
		})
		synctest.Wait()
		group.Go(func() { g.check(t, 2) })
		group.Go(func() { g.check(t, 3) })
		synctest.Wait()
		end()
		group.Wait()
		if len(g.together) != 1 || len(g.together[0]) != 2 {
			t.Errorf("together %v", g.together)
		}
	})
}

// A leader whose context ends in the middle serves the others to the end.
func TestGroupLeaderLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGrouped(doubled)
		leads, end := context.WithCancel(t.Context())
		defer end()
		var group sync.WaitGroup
		group.Go(func() { g.check(t, 0) })
		synctest.Wait()
		group.Go(func() {
			if got, err := g.do(leads, 1); err != nil || got != 2 {
				t.Errorf("the leader: %d, %v", got, err)
			}
		})
		synctest.Wait()
		group.Go(func() { g.check(t, 2) })
		synctest.Wait()
		time.Sleep(statementTakes + statementTakes/2)
		end()
		group.Wait()
		if len(g.together) != 1 || len(g.alone) != 1 {
			t.Errorf("together %v, alone %v", g.together, g.alone)
		}
	})
}

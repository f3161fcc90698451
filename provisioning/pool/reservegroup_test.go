package pool_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/pool/pooltest"
)

// TestReserveTogether: devices of several stations, whose ranges differ, overlap and end, ask at once. Each gets
// an identity that it may have, nobody the same one, and some of them in one transaction.
func TestReserveTogether(t *testing.T) {
	t.Parallel()
	d := pooltest.New(t)
	const each = 16
	ids := imeis(t, 0, 4*each)
	mustImport(t, d.Store, "a", "phone", ids[:2*each])
	mustImport(t, d.Store, "b", "phone", ids[2*each:])
	at := func(i int) string { return ids[i].Value() }
	stations := []struct {
		within []pool.Range
		err    error
	}{
		{[]pool.Range{{at(0), at(each - 1)}}, nil},                                  // just enough
		{[]pool.Range{{at(each), at(3*each - 1)}, {at(each), at(2*each - 1)}}, nil}, // twice the same ones
		{[]pool.Range{{at(3 * each), at(4*each - 1)}}, nil},
		{[]pool.Range{{"00000000000000", "00000000000009"}}, pool.ErrOutOfRange},
	}
	var mu sync.Mutex
	owner := map[string]int{}
	var wg sync.WaitGroup
	start := make(chan struct{})
	for s, station := range stations {
		for i := range each {
			n := s*each + i
			wg.Go(func() {
				<-start
				r, err := d.Store.Reserve(t.Context(), "phone", station.within, nil, record(n), 1)
				if !errors.Is(err, station.err) {
					t.Errorf("station %d: %v, want %v", s, err, station.err)
				}
				if err != nil {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				value, allowed := r.Identity.Value(), false
				for _, w := range station.within {
					allowed = allowed || w.From <= value && value <= w.To
				}
				if m, twice := owner[value]; twice || !allowed || !r.New {
					t.Errorf("device %d of station %d got %s: allowed %t, new %t, device %d has it too: %t", n, s, value, allowed, r.New, m, twice)
				}
				owner[value] = n
			})
		}
	}
	close(start)
	wg.Wait()
	if len(owner) != 3*each {
		t.Errorf("%d identities were given, want %d", len(owner), 3*each)
	}
	checkPool(t, d.Store)
	var transactions int
	if err := d.AsOwner().QueryRow(`select count(distinct xmin::text) from waiting where reserved is not null`).Scan(&transactions); err != nil {
		t.Fatal(err)
	}
	if transactions >= 3*each {
		t.Errorf("%d reservations took %d transactions: none was made together with another", 3*each, transactions)
	}
	// All of them ask again, and get what they have.
	for value, n := range owner {
		wg.Go(func() {
			r, err := d.Store.Reserve(t.Context(), "phone", nil, nil, record(n), 1)
			if err != nil || r.Identity.Value() != value || r.New {
				t.Errorf("device %d had %s, got %v again, new %t, %v", n, value, r.Identity, r.New, err)
			}
		})
	}
	wg.Wait()
	checkPool(t, d.Store)
}

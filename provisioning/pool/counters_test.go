package pool_test

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"testing"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/pool/pooltest"
	"pgregory.net/rapid"
)

// model is what the pool should be: a line's identities in order, and who has them.
type model struct {
	free     []identity.Identity
	reserved map[int]identity.Identity // by device
	used     int64
	burned   int64
	imported int64
}

// TestCounters: whatever is done in whatever order, the counts are those of the
// model and of the rows.
func TestCounters(t *testing.T) {
	t.Parallel()
	d := pooltest.New(t)
	// Each check is a history of some thirty steps on a real database: a few do,
	// and -rapid.checks asks for more.
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		if err := flag.Set("rapid.checks", "20"); err != nil {
			t.Fatal(err)
		}
	}
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		line := fmt.Sprintf("line %d", round) // one database for all rounds, a line for each
		m := model{reserved: map[int]identity.Identity{}}
		next, batches, device := 0, 0, 0
		tac := identity.TAC(fmt.Sprintf("%08d", round))
		reserve := func(rt *rapid.T, n int) {
			r, err := d.Store.Reserve(rt.Context(), line, nil, nil, record(round*1000+n), 1)
			had, again := m.reserved[n]
			switch {
			case again:
				if err != nil || r.New || r.Identity != had {
					rt.Fatalf("Reserve again = %v, %v, want %v", r, err, had)
				}
			case len(m.free) == 0:
				if !errors.Is(err, pool.ErrEmpty) {
					rt.Fatalf("Reserve from an empty line = %v, %v", r, err)
				}
			default:
				if err != nil || !r.New || r.Identity != m.free[0] {
					rt.Fatalf("Reserve = %v, %v, want %v", r, err, m.free[0])
				}
				m.reserved[n], m.free = m.free[0], m.free[1:]
			}
		}
		pick := func(rt *rapid.T) (int, bool) {
			var devices []int
			for n := range m.reserved {
				devices = append(devices, n)
			}
			if len(devices) == 0 {
				return 0, false
			}
			slices.Sort(devices)
			return rapid.SampledFrom(devices).Draw(rt, "device"), true
		}
		rt.Repeat(map[string]func(*rapid.T){
			"import": func(rt *rapid.T) {
				n := rapid.IntRange(1, 5).Draw(rt, "n")
				var ids []identity.Identity
				for range n {
					id, err := tac.IMEI(next)
					if err != nil {
						rt.Fatal(err)
					}
					ids = append(ids, id)
					next++
				}
				batches++
				if _, err := d.Store.Import(rt.Context(), fmt.Sprintf("%s, batch %d", line, batches), line, identity.TypeIMEI, ids); err != nil {
					rt.Fatal(err)
				}
				m.free = append(m.free, ids...)
				m.imported += int64(n)
			},
			"reserve": func(rt *rapid.T) {
				device++
				reserve(rt, device)
			},
			"reserve again": func(rt *rapid.T) {
				if n, ok := pick(rt); ok {
					reserve(rt, n)
				}
			},
			"use": func(rt *rapid.T) {
				n, ok := pick(rt)
				if !ok {
					return
				}
				for range rapid.IntRange(1, 2).Draw(rt, "times") {
					if err := d.Store.Use(rt.Context(), m.reserved[n]); err != nil {
						rt.Fatal(err)
					}
				}
				delete(m.reserved, n)
				m.used++
			},
			"burn reserved": func(rt *rapid.T) {
				n, ok := pick(rt)
				if !ok {
					return
				}
				for range rapid.IntRange(1, 2).Draw(rt, "times") {
					if err := d.Store.Burn(rt.Context(), m.reserved[n], "test"); err != nil {
						rt.Fatal(err)
					}
				}
				delete(m.reserved, n)
				m.burned++
			},
			"burn free": func(rt *rapid.T) {
				if len(m.free) == 0 {
					return
				}
				i := rapid.IntRange(0, len(m.free)-1).Draw(rt, "which")
				if err := d.Store.Burn(rt.Context(), m.free[i], "test"); err != nil {
					rt.Fatal(err)
				}
				m.free = slices.Delete(m.free, i, i+1)
				m.burned++
			},
			"": func(rt *rapid.T) {
				stock, err := d.Store.Stock(rt.Context())
				if err != nil {
					rt.Fatal(err)
				}
				have := pool.Stock{Line: line, Type: identity.TypeIMEI}
				for _, k := range stock {
					if k.Line == line {
						have = k
					}
				}
				want := pool.Stock{Line: line, Type: identity.TypeIMEI, Imported: m.imported, Free: int64(len(m.free)),
					Reserved: int64(len(m.reserved)), Used: m.used, Burned: m.burned}
				if have != want {
					rt.Fatalf("stock %+v, want %+v", have, want)
				}
			},
		})
		checkPool(t, d.Store)
	})
}

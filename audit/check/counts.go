package check

import (
	"context"
	"fmt"

	"github.com/devicekeys/devicekeys/identity"
)

// counts checks invariant 2: each batch's sum, and its numbers against the rows
// that can be counted.
func (c *checker) counts(ctx context.Context) {
	tallies, err := c.Pool.Tallies(ctx)
	if err != nil {
		c.unread(Counts, err)
		return
	}
	for _, t := range tallies {
		b := t.Batch
		where := rows(fmt.Sprintf("pool.batch %d (%s)", b.ID, b.Name))
		c.checked(Counts, 4)
		if sum := b.Free + b.Reserved + b.Used + b.Burned; b.Imported != sum {
			c.violated(Counts, identity.RecordID{}, where, "%d imported, but %d free, %d reserved, %d used and %d burned make %d: the numbers were changed by hand",
				b.Imported, b.Free, b.Reserved, b.Used, b.Burned, sum)
		}
		for _, n := range []struct {
			name       string
			says, rows int64
		}{{"free", b.Free, t.Free}, {"reserved", b.Reserved, t.Reserved}, {"burned", b.Burned, t.Burned}} {
			if n.says != n.rows {
				c.violated(Counts, identity.RecordID{}, where, "%d %s by the batch's number, %d by its rows: rows or numbers were changed by hand", n.says, n.name, n.rows)
			}
		}
	}
}

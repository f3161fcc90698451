package provisioning

import (
	"context"
	"fmt"
	"time"
)

// maxSkew is how far the clocks of the SPP and of the two databases may be apart
// while anything is burned for its age: far above what NTP leaves, far below a
// reservation's life. Ages are taken by the database that keeps the row, so a
// clock that jumped may age a reservation by years; while it differs from the
// others, nothing is burned. Against a clock that was wrong when a row was
// written, and right again since, only the alert on the metric helps.
const maxSkew = 5 * time.Minute

// skew tells how far the clocks of the SPP and the databases are apart, less
// what asking them took.
func (a *Assembly) skew(ctx context.Context) (time.Duration, error) {
	begun := time.Now() // the runtime's clock is monotonic: how long asking takes is no question of the time of day
	own := a.now().Round(0)
	r, err := a.records.Now(ctx)
	if err != nil {
		return 0, err
	}
	p, err := a.pool.Now(ctx)
	if err != nil {
		return 0, err
	}
	took := time.Since(begun)
	apart := max(r.Sub(own).Abs(), p.Sub(own).Abs(), p.Sub(r).Abs())
	return max(0, apart-took), nil
}

// clocksAgree sets the clocks' metric and refuses while they are apart.
func (a *Assembly) clocksAgree(ctx context.Context) error {
	skew, err := a.skew(ctx)
	if err != nil {
		return err
	}
	a.metrics.skew.Set(skew.Seconds())
	if skew > maxSkew {
		return fmt.Errorf("the clocks of this machine and of the databases are %s apart, above %s: nothing is burned for its age until they are set right", skew, maxSkew)
	}
	return nil
}

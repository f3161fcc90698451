package provisioning

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/devicekeys/devicekeys/provisioning/records"
)

const (
	// keepingEvery is how often gauges are read and old keys forgotten: as often
	// as Prometheus usually asks.
	keepingEvery = 10 * time.Second

	// reconcileEvery is how often pool and records are compared. What is found is
	// left from a crash; a line makes none of it.
	reconcileEvery = time.Minute

	// settled is how old a reservation must be before it is looked at: a device
	// under way is nobody's leftover.
	settled = 2 * time.Minute

	// keepingTimeout bounds one round.
	keepingTimeout = 30 * time.Second
)

// houseKeeping runs until ctx ends. What fails is tried again in the next
// round.
func (a *Assembly) houseKeeping(ctx context.Context) {
	var reconciled time.Time
	tick := time.NewTicker(keepingEvery)
	defer tick.Stop()
	for {
		bound, cancel := context.WithTimeout(ctx, keepingTimeout)
		a.cache.sweep(bound, false)
		errs := []error{a.gauges(bound)}
		if time.Since(reconciled) >= reconcileEvery { // the runtime's monotonic clock: no jump makes it wait
			errs = append(errs, a.reconcile(bound), a.burnStale(bound))
			reconciled = time.Now()
		}
		cancel()
		if err := errors.Join(errs...); err != nil && ctx.Err() == nil {
			a.log.WarnContext(ctx, "house-keeping failed; the next round tries again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// gauges reads what Prometheus is told.
func (a *Assembly) gauges(ctx context.Context) error {
	stock, err := a.pool.Stock(ctx)
	if err != nil {
		return err
	}
	free := map[string]int64{}
	for line := range a.lines {
		free[line] = 0
	}
	for _, k := range stock {
		if _, served := a.lines[k.Line]; served {
			free[k.Line] += k.Free
		}
	}
	for line, n := range free {
		a.metrics.free.WithLabelValues(line).Set(float64(n))
	}
	waiting, setAside, oldest, err := a.records.Waiting(ctx)
	if err != nil {
		return err
	}
	a.metrics.outbox.Set(float64(waiting))
	a.metrics.aside.Set(float64(setAside))
	age := 0.0
	if !oldest.IsZero() {
		age = max(0, a.now().Sub(oldest).Seconds())
	}
	a.metrics.oldest.Set(age)
	return nil
}

// reconcile ends what a crash left between records and pool: identities still
// reserved whose devices are published, scrapped or burned. A reservation
// without a device row is left alone; its chip may come back (burnStale).
func (a *Assembly) reconcile(ctx context.Context) error {
	reserved, err := a.pool.Reservations(ctx, settled)
	if err != nil {
		return err
	}
	for _, r := range reserved {
		d, err := a.records.Get(ctx, r.Record, r.Generation)
		switch {
		case errors.Is(err, records.ErrNotFound):
			continue
		case err != nil:
			return err
		case d.Identity != r.Identity:
			continue
		case !d.PublishedAt.IsZero(), d.State == records.Scrapped:
			// The identity of a scrapped board was given out for good: it is another
			// chip's by now, or nobody's.
			err = a.pool.Use(ctx, r.Identity)
		case d.State == records.Burned:
			err = a.pool.Burn(ctx, r.Identity, "its device is burned")
		default:
			continue
		}
		if err != nil {
			return err
		}
		a.log.InfoContext(ctx, "the pool still had a finished device's identity", "record", r.Record.Short(), "state", string(d.State))
	}
	return nil
}

const (
	// headEvery and headEntries say when the audit log's head is signed: after
	// so much time if anything was added, and after so many entries. Between two
	// signed heads whoever owns the database could rewrite unseen.
	headEvery   = time.Minute
	headEntries = 1000

	// headLook is how often the log's end is looked at.
	headLook = 5 * time.Second
)

// headSigner signs the end of the audit log from time to time, and at the end.
type headSigner struct {
	log    AuditLog
	sign   func(ctx context.Context, payload []byte) ([]byte, error)
	logger *slog.Logger
	now    func() time.Time
}

func (h *headSigner) run(ctx context.Context) {
	var signed int64
	var at time.Time
	tick := time.NewTicker(headLook)
	defer tick.Stop()
	for last := false; ; {
		limit := keepingTimeout
		if last {
			limit = finishTime
		}
		bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		head, err := h.log.Head(bound)
		if err == nil && head.Seq > signed && (last || head.Seq-signed >= headEntries || h.now().Sub(at) >= headEvery || h.now().Before(at)) {
			if head, err = h.log.SignHead(bound, h.sign); err == nil {
				signed, at = head.Seq, h.now()
			}
		}
		cancel()
		if err != nil {
			h.logger.WarnContext(ctx, "signing the audit log's head failed; it is tried again", "error", err)
		}
		if last {
			return
		}
		select {
		case <-ctx.Done():
			last = true
		case <-tick.C:
		}
	}
}

package provisioning

import (
	"container/list"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

const (
	// deviceKeysTTL is how long a device's keys wait for its next call, from
	// Begin. A device takes seconds on the line; one that takes longer than
	// this went to a bench, and its keys are derived again when it returns.
	deviceKeysTTL = 10 * time.Minute

	// maxDeviceKeys bounds the devices whose keys wait: several times the
	// devices in flight on a busy line, and a few MB of session objects.
	maxDeviceKeys = 1024

	// destroyTimeout bounds giving keys back to the token, which happens after
	// the caller's context may have ended.
	destroyTimeout = 5 * time.Second
)

// deviceID names one generation of one device.
type deviceID struct {
	Record     identity.RecordID
	Generation identity.Generation
}

// deviceKeys are the handles of one device's derived keys, by entry name. The
// handles live in the HSM; nobody destroys them while uses is above zero. With
// them waits the device's row as this process last wrote or read it.
type deviceKeys struct {
	id     deviceID
	named  map[string]keypackage.MACKey
	born   time.Time
	row    *records.Device // nil: not known; guarded by keyCache.mu, never changed in place
	uses   int             // guarded by keyCache.mu
	gone   bool            // no longer in the cache: the last user destroys; guarded by keyCache.mu
	parked *list.Element   // guarded by keyCache.mu
}

// keyCache keeps the keys and rows of devices between Begin and Locked: bounded in
// number, the least recently used goes first, and in time.
type keyCache struct {
	now   func() time.Time
	log   *slog.Logger
	gauge prometheus.Gauge

	mu    sync.Mutex
	byID  map[deviceID]*deviceKeys
	order *list.List // of *deviceKeys, least recently used first
}

func newKeyCache(now func() time.Time, log *slog.Logger, gauge prometheus.Gauge) *keyCache {
	return &keyCache{now: now, log: log, gauge: gauge, byID: map[deviceID]*deviceKeys{}, order: list.New()}
}

// take gives a device's keys, or nil. The caller releases them.
func (c *keyCache) take(ctx context.Context, id deviceID) *deviceKeys {
	c.mu.Lock()
	k := c.byID[id]
	var dead []*deviceKeys
	switch {
	case k == nil:
	case c.tooOld(k):
		dead = c.remove(dead, k)
		k = nil
	default:
		k.uses++
		c.order.MoveToBack(k.parked)
	}
	c.mu.Unlock()
	c.destroy(ctx, dead)
	return k
}

// tooOld tells whether keys waited too long; a clock that jumped either way has
// them derived again.
func (c *keyCache) tooOld(k *deviceKeys) bool {
	age := c.now().Sub(k.born)
	return age < 0 || age > deviceKeysTTL
}

// put keeps freshly derived keys; the caller uses and releases what it gets.
// Keys that stood there before go.
func (c *keyCache) put(ctx context.Context, id deviceID, named map[string]keypackage.MACKey) *deviceKeys {
	k := &deviceKeys{id: id, named: named, born: c.now(), uses: 1}
	c.mu.Lock()
	var dead []*deviceKeys
	if old := c.byID[id]; old != nil {
		dead = c.remove(dead, old)
	}
	c.byID[id], k.parked = k, c.order.PushBack(k)
	for c.order.Len() > maxDeviceKeys {
		dead = c.remove(dead, c.order.Front().Value.(*deviceKeys))
	}
	c.gauge.Set(float64(c.order.Len()))
	c.mu.Unlock()
	c.destroy(ctx, dead)
	return k
}

// release ends a use that take or put began.
func (c *keyCache) release(ctx context.Context, k *deviceKeys) {
	c.mu.Lock()
	k.uses--
	var dead []*deviceKeys
	if k.gone && k.uses == 0 {
		dead = append(dead, k)
	}
	c.mu.Unlock()
	c.destroy(ctx, dead)
}

// drop forgets a device's keys: it is locked, or its handles died.
func (c *keyCache) drop(ctx context.Context, id deviceID) {
	c.mu.Lock()
	var dead []*deviceKeys
	if k := c.byID[id]; k != nil {
		dead = c.remove(dead, k)
	}
	c.mu.Unlock()
	c.destroy(ctx, dead)
}

// row gives the row that waits with a device's keys, if it is in the given state.
// Another SPP, an operator or house-keeping may have changed it since: a row from
// here allows one try at the step that is due, whose write names the state it
// starts from. What fails is looked at anew, with the row as it is.
func (c *keyCache) row(id deviceID, line string, state records.State) (records.Device, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.byID[id]; k != nil && k.row != nil && k.row.State == state && k.row.Line == line && !c.tooOld(k) {
		return *k.row, true
	}
	return records.Device{}, false
}

// keep has a row wait with the device's keys, if those do.
func (c *keyCache) keep(d records.Device) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.byID[deviceID{d.Record, d.Generation}]; k != nil {
		k.row = &d
	}
}

// forget drops the row: it is not what it was.
func (c *keyCache) forget(id deviceID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.byID[id]; k != nil {
		k.row = nil
	}
}

// sweep forgets keys that waited too long; with all, every key.
func (c *keyCache) sweep(ctx context.Context, all bool) {
	c.mu.Lock()
	var dead []*deviceKeys
	for _, k := range c.byID {
		if all || c.tooOld(k) {
			dead = c.remove(dead, k)
		}
	}
	c.mu.Unlock()
	c.destroy(ctx, dead)
}

// remove takes keys out of the cache and adds them to dead if nobody uses
// them; otherwise the last user destroys them. c.mu is held.
func (c *keyCache) remove(dead []*deviceKeys, k *deviceKeys) []*deviceKeys {
	delete(c.byID, k.id)
	c.order.Remove(k.parked)
	c.gauge.Set(float64(c.order.Len()))
	k.gone = true
	if k.uses == 0 {
		return append(dead, k)
	}
	return dead
}

// destroy gives keys back to the token. It fails where their session died,
// and the keys with it: session objects leave nothing behind.
func (c *keyCache) destroy(ctx context.Context, dead []*deviceKeys) {
	if len(dead) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
	defer cancel()
	for _, k := range dead {
		destroyAll(ctx, c.log, k.named)
	}
}

func destroyAll(ctx context.Context, log *slog.Logger, named map[string]keypackage.MACKey) {
	for name, key := range named {
		if err := key.Destroy(ctx); err != nil {
			log.WarnContext(ctx, "destroying a device key failed; it ends with its session", "entry", name, "error", err)
		}
	}
}

package registry

import (
	"container/list"
	"sync"
	"time"

	"github.com/devicekeys/devicekeys/identity"
)

// cacheKey names one answer. Generation 0 asks for the newest.
type cacheKey struct {
	record     identity.RecordID
	generation identity.Generation
	media      string
}

// cacheOverhead is about what an answer takes beyond its body, in bytes: its
// header values, the key, list element and map slot.
const cacheOverhead = 1 << 10

// cache holds ready answers, the least recently used of which go first once
// their weight exceeds the bound. It is safe for concurrent use.
type cache struct {
	mu     sync.Mutex
	most   int64 // bytes
	weight int64
	order  *list.List // of *ready, front used last
	byKey  map[cacheKey]*list.Element
}

func newCache(most int64) *cache {
	return &cache{most: most, order: list.New(), byKey: map[cacheKey]*list.Element{}}
}

// get gives an answer that is still fresh at now, or nil.
func (c *cache) get(key cacheKey, now time.Time) *ready {
	c.mu.Lock()
	defer c.mu.Unlock()
	el, ok := c.byKey[key]
	if !ok {
		return nil
	}
	a := el.Value.(*ready)
	if now.Sub(a.made) >= a.life {
		c.remove(el)
		return nil
	}
	c.order.MoveToFront(el)
	return a
}

// put keeps an answer, unless it alone is heavier than the bound.
func (c *cache) put(a *ready) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.byKey[a.key]; ok {
		c.remove(old)
	}
	if a.weight() > c.most {
		return
	}
	c.byKey[a.key] = c.order.PushFront(a)
	c.weight += a.weight()
	for c.weight > c.most {
		c.remove(c.order.Back())
	}
}

func (c *cache) remove(el *list.Element) {
	a := c.order.Remove(el).(*ready)
	delete(c.byKey, a.key)
	c.weight -= a.weight()
}

func (c *cache) bytes() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.weight
}

package registry

import (
	"container/list"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxAddresses bounds the table of buckets. The address that asked longest ago
// goes first; its bucket had time to fill, unless the table turns over within
// seconds, and then the addresses are too many for a limit by address anyway.
const maxAddresses = 1 << 16

// limiter holds a token bucket for each client address: for IPv6 one for each
// /64, which is what one subscriber has. It is safe for concurrent use.
type limiter struct {
	rate    rate.Limit
	burst   int
	most    int
	proxies []netip.Prefix

	mu     sync.Mutex
	order  *list.List // of *bucket, front used last
	byAddr map[netip.Addr]*list.Element
}

type bucket struct {
	addr   netip.Addr
	tokens *rate.Limiter
}

func newLimiter(perSecond float64, burst, most int, proxies []netip.Prefix) *limiter {
	return &limiter{rate: rate.Limit(perSecond), burst: burst, most: most, proxies: proxies,
		order: list.New(), byAddr: map[netip.Addr]*list.Element{}}
}

// take takes tokens from the address's bucket, or says when they will be there.
func (l *limiter) take(addr netip.Addr, tokens int, now time.Time) (wait time.Duration, ok bool) {
	b := l.bucket(addr)
	r := b.ReserveN(now, tokens)
	if !r.OK() { // more than a full bucket holds; the handler's costs never are
		return time.Minute, false
	}
	if wait = r.DelayFrom(now); wait > 0 {
		r.CancelAt(now)
		return wait, false
	}
	return 0, true
}

func (l *limiter) bucket(addr netip.Addr) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if el, ok := l.byAddr[addr]; ok {
		l.order.MoveToFront(el)
		return el.Value.(*bucket).tokens
	}
	if len(l.byAddr) >= l.most {
		last := l.order.Remove(l.order.Back()).(*bucket)
		delete(l.byAddr, last.addr)
	}
	b := &bucket{addr, rate.NewLimiter(l.rate, l.burst)}
	l.byAddr[addr] = l.order.PushFront(b)
	return b.tokens
}

// client gives the address that a request counts for: the peer's, or, where
// the peer is a trusted proxy, the last address in X-Forwarded-For that is not
// one itself. What stands before that one is the client's own word.
func (l *limiter) client(r *http.Request) netip.Addr {
	addr := parseAddr(r.RemoteAddr)
	if l.trusted(addr) {
		hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
		for i := len(hops) - 1; i >= 0 && l.trusted(addr); i-- {
			hop := parseAddr(strings.TrimSpace(hops[i]))
			if !hop.IsValid() {
				break
			}
			addr = hop
		}
	}
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return addr
}

func (l *limiter) trusted(addr netip.Addr) bool {
	for _, p := range l.proxies {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// parseAddr reads an address with or without port; IPv4 in IPv6 counts as IPv4.
func parseAddr(s string) netip.Addr {
	if host, _, err := net.SplitHostPort(s); err == nil {
		s = host
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap().WithZone("")
}

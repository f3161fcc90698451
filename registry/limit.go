package registry

import (
	"container/list"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxNetworks bounds the table of buckets. The network that asked longest ago
// goes first; its bucket had time to fill, unless the table turns over within
// seconds, and then the addresses are too many for a limit by address anyway:
// what they may ask together is bounded by the total, where there is one.
const maxNetworks = 1 << 16

// networks are those that an IPv6 address counts for, the largest first. What one
// subscriber has differs: a phone a /64, a household a /56 or a /48 (RIPE-690), a
// rented server anything from a /64 to a /48. So a /64 has the limit of an IPv4 address, and the
// larger ones have more, since there may be several subscribers in them, but not as
// much more as they have addresses.
var networks = [...]struct{ bits, times int }{{48, 16}, {56, 4}, {64, 1}}

// limiter holds a token bucket for each client: for each IPv4 address, and for each
// IPv6 network of the sizes in networks. It is safe for concurrent use.
type limiter struct {
	rate    rate.Limit
	burst   int
	total   *rate.Limiter // of all clients together; nil: no bound
	most    int
	proxies []netip.Prefix

	mu        sync.Mutex // guards the two below, and keeps a take whole
	order     *list.List // of *bucket, front used last
	byNetwork map[netip.Prefix]*list.Element
}

type bucket struct {
	network netip.Prefix
	tokens  *rate.Limiter
}

func newLimiter(perSecond float64, burst, most int, proxies []netip.Prefix) *limiter {
	return &limiter{rate: rate.Limit(perSecond), burst: burst, most: most, proxies: proxies,
		order: list.New(), byNetwork: map[netip.Prefix]*list.Element{}}
}

// take takes tokens from each bucket that an address counts for, or from none and says when to
// ask again. The largest network is asked first: while it has no tokens, none of the addresses in it
// gets a bucket, so they can't drive others' out of the table.
func (l *limiter) take(addr netip.Addr, tokens int, now time.Time) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var taken [1 + len(networks)]*rate.Reservation
	n := 0
	from := func(b *rate.Limiter) bool {
		r := b.ReserveN(now, tokens)
		if !r.OK() { // more than a full bucket holds; the handler's costs never are
			wait = time.Minute
			return false
		}
		if wait = r.DelayFrom(now); wait > 0 {
			r.CancelAt(now)
			return false
		}
		taken[n] = r
		n++
		return true
	}
	ok = l.total == nil || from(l.total)
	if addr.Is6() {
		for _, size := range networks {
			p, _ := addr.Prefix(size.bits) // fails on more bits than there are
			ok = ok && from(l.bucket(p, size.times))
		}
	} else {
		ok = ok && from(l.bucket(netip.PrefixFrom(addr, addr.BitLen()), 1))
	}
	if !ok {
		for _, r := range taken[:n] {
			r.CancelAt(now)
		}
	}
	return wait, ok
}

// bucket gives the one of a network, which has so many times the limit of an address.
func (l *limiter) bucket(network netip.Prefix, times int) *rate.Limiter {
	if el, ok := l.byNetwork[network]; ok {
		l.order.MoveToFront(el)
		return el.Value.(*bucket).tokens
	}
	if len(l.byNetwork) >= l.most {
		last := l.order.Remove(l.order.Back()).(*bucket)
		delete(l.byNetwork, last.network)
	}
	b := &bucket{network, rate.NewLimiter(l.rate*rate.Limit(times), l.burst*times)}
	l.byNetwork[network] = l.order.PushFront(b)
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
	return addr
}

func (l *limiter) trusted(addr netip.Addr) bool { return among(addr, l.proxies) }

func among(addr netip.Addr, prefixes []netip.Prefix) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
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

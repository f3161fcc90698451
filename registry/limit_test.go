package registry_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/registrytest"
)

func TestLimiter(t *testing.T) {
	t.Parallel()
	l := registry.NewLimiter(2, 3, 100)
	now := time.Now()
	take := func(addr string, at time.Duration, want bool) {
		t.Helper()
		if wait, ok := l.Take(addr, now.Add(at)); ok != want || ok == (wait > 0) {
			t.Errorf("%s after %s: %v, wait %s", addr, at, ok, wait)
		}
	}
	for range 3 {
		take("192.0.2.1", 0, true)
	}
	take("192.0.2.1", 0, false)
	take("192.0.2.2", 0, true) // its own bucket
	take("192.0.2.1", 499*time.Millisecond, false)
	take("192.0.2.1", 500*time.Millisecond, true)
	take("192.0.2.1", 500*time.Millisecond, false) // a refusal takes nothing
	take("192.0.2.1", time.Second, true)
}

// The table stays bounded, and who asks all the time stays in it.
func TestLimiterTable(t *testing.T) {
	t.Parallel()
	l := registry.NewLimiter(0.001, 150, 100)
	now := time.Now()
	for i := range 1000 {
		l.Take(fmt.Sprintf("10.0.%d.%d", i/250, i%250), now)
		if i%10 == 0 {
			l.Take("192.0.2.1", now)
		}
	}
	if l.Len() != 100 {
		t.Errorf("%d buckets in a table of 100", l.Len())
	}
	for range 50 {
		l.Take("192.0.2.1", now)
	}
	if _, ok := l.Take("192.0.2.1", now); ok {
		t.Error("an address that kept asking got a new bucket")
	}
}

// Who has a whole /48 of IPv6 gets more than one with a /64, and not as much more as it has addresses.
func TestLimiterNetworks(t *testing.T) {
	t.Parallel()
	const burst = 3
	now := time.Now()
	for _, row := range []struct {
		name string
		addr func(i int) string
		want int // of a thousand at once
	}{
		{"one address", func(int) string { return "2001:db8::1" }, burst},
		{"a /64", func(i int) string { return fmt.Sprintf("2001:db8::%x", i) }, burst},
		{"a /56", func(i int) string { return fmt.Sprintf("2001:db8:0:%x::1", i%256) }, 4 * burst},
		{"a /48", func(i int) string { return fmt.Sprintf("2001:db8:0:%x::1", i) }, 16 * burst},
		{"a /48, apart", func(i int) string { return fmt.Sprintf("2001:db8:0:%x::1", i<<8&0xffff|i) }, 16 * burst},
		{"two /48", func(i int) string { return fmt.Sprintf("2001:db8:%x:%x::1", i%2, i) }, 32 * burst},
		{"IPv4", func(i int) string { return fmt.Sprintf("10.0.%d.%d", i/250, i%250) }, 1000},
	} {
		l := registry.NewLimiter(0.001, burst, 10_000)
		got := 0
		for i := range 1000 {
			if _, ok := l.Take(row.addr(i), now); ok {
				got++
			}
		}
		if got != row.want {
			t.Errorf("%s: %d of a thousand at once, want %d", row.name, got, row.want)
		}
		if n := l.Len(); row.name == "a /48" && n > 1+256+16*burst {
			t.Errorf("%s, over its limit, fills the table: %d buckets", row.name, n)
		}
	}
}

// All clients together are bounded, and one that is over its own limit takes nothing from the others.
func TestLimiterTotal(t *testing.T) {
	t.Parallel()
	l := registry.NewLimiter(1, 3, 100)
	l.SetTotal(10, 20)
	now := time.Now()
	for range 1000 {
		l.Take("192.0.2.1", now)
		l.Take("2001:db8::1", now)
	}
	got := 0
	for i := range 100 {
		if _, ok := l.Take(fmt.Sprintf("10.0.0.%d", i), now); ok {
			got++
		}
	}
	if got != 20-3-3 {
		t.Errorf("%d of a hundred others, want 14", got)
	}
	if wait, ok := l.Take("10.0.0.200", now); ok || wait != 100*time.Millisecond {
		t.Errorf("one more: %v, wait %s", ok, wait)
	}
	if _, ok := l.Take("10.0.0.200", now.Add(100*time.Millisecond)); !ok {
		t.Error("no lookup when it was said to be possible")
	}
	if l.Len() > 2+3+20 {
		t.Errorf("%d buckets: those who were refused by the total have some", l.Len())
	}
}

func TestClientAddress(t *testing.T) {
	t.Parallel()
	l := registry.NewLimiter(1, 1, 10, netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8"))
	for _, row := range []struct {
		peer      string
		forwarded []string
		want      string
	}{
		{"192.0.2.1:1000", nil, "192.0.2.1"},
		{"192.0.2.1:1000", []string{"198.51.100.1"}, "192.0.2.1"}, // not a proxy's word
		{"10.0.0.1:1000", []string{"198.51.100.1"}, "198.51.100.1"},
		{"10.0.0.1:1000", []string{"203.0.113.9, 198.51.100.1"}, "198.51.100.1"}, // the first is the client's own word
		{"10.0.0.1:1000", []string{"203.0.113.9", "198.51.100.1, 10.0.0.2"}, "198.51.100.1"},
		{"10.0.0.1:1000", []string{"nonsense"}, "10.0.0.1"},
		{"10.0.0.1:1000", nil, "10.0.0.1"},
		{"[2001:db8:1:2:3:4:5:6]:1000", nil, "2001:db8:1:2:3:4:5:6"},
		{"[fd00::1]:1000", []string{"2001:db8:1:2::9"}, "2001:db8:1:2::9"},
		{"[::ffff:192.0.2.1]:1000", nil, "192.0.2.1"},
		{"[fe80::1%eth0]:1000", nil, "fe80::1"},
	} {
		r := &http.Request{RemoteAddr: row.peer, Header: http.Header{"X-Forwarded-For": row.forwarded}}
		if got := registry.ClientOf(l, r); got.String() != row.want {
			t.Errorf("%s %q counts for %s, want %s", row.peer, row.forwarded, got, row.want)
		}
	}
}

func TestCache(t *testing.T) {
	t.Parallel()
	const size = 1000
	c := registry.NewCache(10 * (size + registry.CacheOverhead))
	now := time.Now()
	for i := range 30 {
		c.Put(registrytest.Chip(t, i).RecordID(), size, now, time.Minute)
		if !c.Has(registrytest.Chip(t, 0).RecordID(), now) {
			t.Fatalf("what is asked for all the time is gone after %d", i)
		}
	}
	if most := int64(10 * (size + registry.CacheOverhead)); c.Bytes() != most {
		t.Errorf("%d bytes are kept, want %d", c.Bytes(), most)
	}
	if c.Has(registrytest.Chip(t, 20).RecordID(), now) || !c.Has(registrytest.Chip(t, 21).RecordID(), now) {
		t.Error("not the least recently used ones are gone")
	}
	if c.Has(registrytest.Chip(t, 29).RecordID(), now.Add(time.Minute)) {
		t.Error("an answer outlives its life")
	}
	c.Put(registrytest.Chip(t, 28).RecordID(), 2*size, now, time.Minute) // in place of the lighter one
	c.Put(registrytest.Chip(t, 50).RecordID(), 100*size, now, time.Minute)
	if c.Has(registrytest.Chip(t, 50).RecordID(), now) {
		t.Error("an answer heavier than the cache is kept")
	}
	if most := int64(10 * (size + registry.CacheOverhead)); c.Bytes() > most {
		t.Errorf("%d bytes are kept, at most %d may be", c.Bytes(), most)
	}
}

func TestQuality(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		accept     []string
		cbor, json float64
	}{
		{[]string{"*/*"}, 1, 1},
		{[]string{"application/json"}, 0, 1},
		{[]string{"text/html, application/xhtml+xml, */*;q=0.8"}, 0.8, 0.8},
		{[]string{"application/*;q=0.2, application/json;q=0.1"}, 0.2, 0.1},
		{[]string{"application/cbor;q=0, */*"}, 0, 1},
		{[]string{"text/html", "application/cbor"}, 1, 0},
		{[]string{"application/json;q=nonsense"}, 0, 0},
		{[]string{"application/json;q=NaN, ;;, application/cbor"}, 1, 0},
		{[]string{""}, 0, 0},
	} {
		if c, j := registry.Quality(row.accept, registry.MediaCBOR), registry.Quality(row.accept, registry.MediaJSON); c != row.cbor || j != row.json {
			t.Errorf("%q: CBOR %g, JSON %g; want %g, %g", row.accept, c, j, row.cbor, row.json)
		}
	}
}

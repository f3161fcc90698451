package channel

import (
	"net"
	"net/netip"
)

// What of an IPv6 address is one source: who has one address of a /64 has all of them, and
// who rents a line or a machine often has a whole /48 of such.
const (
	nearPrefix = 64
	farPrefix  = 48
)

// Networks gives what an address counts for where sources are bounded: itself, of IPv6 its
// /64 and, far, its /48. Of IPv4 and of no address far is the zero Prefix.
func Networks(a netip.Addr) (near, far netip.Prefix) {
	a = a.Unmap().WithZone("")
	if !a.Is6() {
		near, _ = a.Prefix(a.BitLen()) // of no address the zero Prefix: all of those are one source
		return near, netip.Prefix{}
	}
	near, _ = a.Prefix(nearPrefix) // the lengths are in range
	far, _ = a.Prefix(farPrefix)
	return near, far
}

// sourceOf gives the address that a connection counts for.
func sourceOf(conn net.Conn) netip.Addr {
	a := conn.RemoteAddr()
	if a == nil {
		return netip.Addr{}
	}
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{} // a pipe of a test: all of them are one source
	}
	return p.Addr().Unmap().WithZone("")
}

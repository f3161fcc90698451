package registry

import (
	"encoding/binary"
	"math"
	"unicode/utf8"
)

// Entries and submissions are read and written a thousand at a time, and by package detcbor, which goes
// by reflection and encodes anew what it has read, that took more time than all else that the sequencer
// does. So the usual case is read here, by hand, and nothing but it: of an array of integers and
// strings, the one deterministic encoding (RFC 8949 §4.2.1). Whatever else there is isn't refused here, but
// left to detcbor, which knows why. Tests hold the two against each other.

// Major types (RFC 8949 §3.1) of what is read here.
const (
	majorUint  = 0
	majorBytes = 2
	majorText  = 3
	majorArray = 4
)

// cursor reads items one after the other. Once something isn't as expected it gives zero values.
type cursor struct {
	rest []byte
	odd  bool // something was not as expected
}

// argument reads the head of an item of a major type: its argument, in the shortest form.
func (c *cursor) argument(major byte) uint64 {
	if c.odd || len(c.rest) == 0 || c.rest[0]>>5 != major {
		c.odd = true
		return 0
	}
	short := c.rest[0] & 0x1f
	if short < 24 {
		c.rest = c.rest[1:]
		return uint64(short)
	}
	if short > 27 || len(c.rest) < 1+1<<(short-24) {
		c.odd = true
		return 0
	}
	var n, least uint64
	switch short {
	case 24:
		n, least = uint64(c.rest[1]), 24
	case 25:
		n, least = uint64(binary.BigEndian.Uint16(c.rest[1:])), math.MaxUint8+1
	case 26:
		n, least = uint64(binary.BigEndian.Uint32(c.rest[1:])), math.MaxUint16+1
	case 27:
		n, least = binary.BigEndian.Uint64(c.rest[1:]), math.MaxUint32+1
	}
	c.rest = c.rest[1+1<<(short-24):]
	c.odd = c.odd || n < least
	return n
}

// array reads the head of an array and gives its length.
func (c *cursor) array() uint64 { return c.argument(majorArray) }

// uint reads an integer from 0 to most.
func (c *cursor) uint(most uint64) uint64 {
	n := c.argument(majorUint)
	if n > most {
		c.odd = true
	}
	if c.odd {
		return 0
	}
	return n
}

// bytes reads a byte string. It is a part of what is read.
func (c *cursor) bytes() []byte { return c.string(majorBytes) }

// text reads a text string.
func (c *cursor) text() string {
	b := c.string(majorText)
	if !utf8.Valid(b) {
		c.odd = true
		return ""
	}
	return string(b)
}

func (c *cursor) string(major byte) []byte {
	n := c.argument(major)
	if c.odd || n > uint64(len(c.rest)) {
		c.odd = true
		return nil
	}
	b := c.rest[:n:n]
	c.rest = c.rest[n:]
	return b
}

// done reports whether all was as expected, to the end.
func (c *cursor) done() bool { return !c.odd && len(c.rest) == 0 }

// appendHead appends the head of an item, in the shortest form.
func appendHead(b []byte, major byte, n uint64) []byte {
	m := major << 5
	switch {
	case n < 24:
		return append(b, m|byte(n))
	case n <= math.MaxUint8:
		return append(b, m|24, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, m|25), uint16(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, m|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, m|27), n)
}

// appendBytes appends a byte string.
func appendBytes(b, s []byte) []byte { return append(appendHead(b, majorBytes, uint64(len(s))), s...) }

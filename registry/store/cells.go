package store

import (
	"bytes"
	"database/sql/driver"
	"fmt"
)

// cells reads a row's values one after the other. What isn't as the schema has it is damage; after that it
// gives zero values.
type cells struct {
	values []driver.Value
	err    error // the first
}

func (c *cells) next() driver.Value {
	if len(c.values) == 0 {
		c.fail("a column is missing")
		return nil
	}
	v := c.values[0]
	c.values = c.values[1:]
	return v
}

func (c *cells) fail(what string) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: %s", ErrDamaged, what)
	}
}

// integer reads a number from 0 to most.
func (c *cells) integer(most int64) int64 {
	n, ok := c.next().(int64)
	if !ok || n < 0 || n > most {
		c.fail("a number is not one, or out of its range")
		return 0
	}
	return n
}

// bytes reads a byte string, nil where there is null. It is a copy.
func (c *cells) bytes() []byte {
	v := c.next()
	b, ok := v.([]byte)
	if !ok && v != nil {
		c.fail("a byte string is not one")
	}
	return bytes.Clone(b)
}

// fixed reads a byte string into a place of its length.
func (c *cells) fixed(into []byte) {
	b, ok := c.next().([]byte)
	if !ok || len(b) != len(into) {
		c.fail(fmt.Sprintf("%d bytes where %d are expected", len(b), len(into)))
		return
	}
	copy(into, b)
}

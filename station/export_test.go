package station

import (
	"time"

	"github.com/devicekeys/devicekeys/identity"
)

// WithBounds gives the client other bounds of waiting.
func (c *Client) WithBounds(attempt, patience, first, most time.Duration) *Client {
	c.bounds = bounds{attempt, patience, first, most}
	return c
}

// Page is a page of the journal.
type Page = page

// MaxPage is the longest page that is read, in bytes.
const MaxPage = maxPage

// Write writes a page.
func (j *Journal) Write(p Page) error { return j.write(p) }

// Read reads a page.
func (j *Journal) Read(r identity.RecordID) (Page, bool, error) { return j.read(r) }

// Remove removes a page.
func (j *Journal) Remove(r identity.RecordID) error { return j.remove(r) }

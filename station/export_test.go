package station

import (
	"time"

	"github.com/devicekeys/devicekeys/identity"
)

// WithBounds gives the client other bounds of waiting.
func (c *Client) WithBounds(attempt, patience, first, most time.Duration) *Client {
	c.bounds = bounds{attempt, patience, first, most, patience / 4}
	return c
}

// WithProbe has an SPP that was left looked at again this often.
func (c *Client) WithProbe(every time.Duration) *Client {
	c.bounds.probe = every
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

// SetAside moves a page aside.
func (j *Journal) SetAside(r identity.RecordID) (string, error) { return j.setAside(r) }

// Check tells whether the journal takes a page.
func (j *Journal) Check() error { return j.check() }

// Queue is a line's queue of devices that nobody works on.
type Queue struct {
	*queue
	taken map[string]*work
}

// NewQueue makes a queue of devices not begun.
func NewQueue(now time.Time, patience time.Duration, devices ...string) Queue {
	var all []*work
	for _, d := range devices {
		all = append(all, &work{out: &Outcome{Device: d}})
	}
	return Queue{newQueue(all, patience, now), map[string]*work{}}
}

// Next gives the device that a hand gets at a time, else how long it waits; 0:
// it goes home.
func (q Queue) Next(now time.Time) (device string, wait time.Duration) {
	w, _, wait := q.next(now)
	if w == nil {
		return "", wait
	}
	q.taken[w.out.Device], w.parked = w, ""
	return w.out.Device, 0
}

// Ask has a device ask for its publication, as far as the queue lets it.
func (q Queue) Ask(now time.Time, answer error) bool {
	if !q.registry.ask(now) {
		return false
	}
	q.published(now, answer)
	return true
}

// Park takes a device back that waits for the registry.
func (q Queue) Park(now time.Time, device string, s Step) {
	w := q.taken[device]
	w.parked = s
	q.done(now, w, nil)
}

// Done takes a device back that shipped or failed.
func (q Queue) Done(now time.Time, device string, err error) { q.done(now, q.taken[device], err) }

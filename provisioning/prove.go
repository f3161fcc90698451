package provisioning

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

const (
	// challengeTTL is how long a device has to answer: a boot and a MAC, with
	// time for a person to plug a cable.
	challengeTTL = 2 * time.Minute

	// maxChallenges bounds what this process remembers; the oldest goes first.
	maxChallenges = 4096
)

// challenges are those this process issued and not yet forgot. They are in
// memory: after a restart a station asks for another.
type challenges struct {
	mu     sync.Mutex // guards both
	issued map[[32]byte]challenge
	order  [][32]byte // oldest first
}

type challenge struct {
	record identity.RecordID
	at     time.Time
}

func (c *challenges) add(b [32]byte, ch challenge) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.issued == nil {
		c.issued = map[[32]byte]challenge{}
	}
	for len(c.order) > 0 && (len(c.order) >= maxChallenges || ch.at.Sub(c.issued[c.order[0]].at) > challengeTTL) {
		delete(c.issued, c.order[0])
		c.order = c.order[1:]
	}
	c.issued[b] = ch
	c.order = append(c.order, b)
}

func (c *challenges) valid(b [32]byte, record identity.RecordID, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch, ok := c.issued[b]
	age := now.Sub(ch.at)
	return ok && ch.record == record && age >= 0 && age <= challengeTTL // a clock that jumped either way asks for another
}

// Challenge begins a check that a device holds the keys of its newest
// generation: at the end of repair, or when someone doubts it.
func (a *Assembly) Challenge(ctx context.Context, s Station, record identity.RecordID) ([32]byte, error) {
	if _, err := a.proving(ctx, s, record); err != nil {
		return [32]byte{}, err
	}
	var b [32]byte
	rand.Read(b[:]) // never fails
	a.issued.add(b, challenge{record, a.now()})
	return b, nil
}

// Prove ends the check: the device's MAC over the challenge is verified inside
// the HSM, with its key derived again. Repeating it within the challenge's time
// gives the same answer.
func (a *Assembly) Prove(ctx context.Context, s Station, record identity.RecordID, b [32]byte, mac []byte) (identity.Generation, error) {
	d, err := a.proving(ctx, s, record)
	if err != nil {
		return 0, err
	}
	if !a.issued.valid(b, record, a.now()) {
		return 0, refuse(CodeChallenge, "ask for another challenge", "the challenge for record %s was not issued here, or is older than %s", record.Short(), challengeTTL)
	}
	if len(mac) != macSize {
		return 0, refuse(CodeMalformed, "look at the device's software", "the MAC has %d bytes, %d are expected", len(mac), macSize)
	}
	unlock, err := a.locks.lock(ctx, record)
	if err != nil {
		return 0, err
	}
	defer unlock()
	if err := a.checkMAC(ctx, s, d, "prove", keypackage.AliveMessage(sha256.Sum256(d.Claims), b), mac, "the proof"); err != nil {
		return 0, err
	}
	if d.State == records.Shipped {
		a.cache.drop(ctx, deviceID{d.Record, d.Generation}) // it is not on the line: nothing follows
	}
	return d.Generation, nil
}

// proving gives the generation that a device should hold: the newest one that
// it was restored with.
func (a *Assembly) proving(ctx context.Context, s Station, record identity.RecordID) (records.Device, error) {
	if _, err := a.admit(ctx, s); err != nil {
		return records.Device{}, err
	}
	d, err := a.records.Newest(ctx, record)
	switch {
	case errors.Is(err, records.ErrNotFound), err == nil && d.Line != s.Line:
		return records.Device{}, unknownDevice(record)
	case err != nil:
		return d, err
	case d.State == records.Restored || d.State.InField():
		return d, nil
	}
	// A next generation on the line has not replaced the one that the device has.
	for g := d.Generation - 1; g > 0; g-- {
		before, err := a.records.Get(ctx, record, g)
		if err != nil {
			return before, err
		}
		if before.State.InField() {
			return before, nil
		}
	}
	return d, notDue("a proof", d)
}

// Status says how far a record's newest generation is. A chip that waits for the
// identity of a scrapped board is planned; it may have no generation yet. It
// changes nothing.
func (a *Assembly) Status(ctx context.Context, s Station, record identity.RecordID) (records.Device, error) {
	if _, err := a.admit(ctx, s); err != nil {
		return records.Device{}, err
	}
	d, err := a.records.Newest(ctx, record)
	none := errors.Is(err, records.ErrNotFound)
	switch {
	case err != nil && !none:
		return d, err
	case !none && d.Line != s.Line:
		return records.Device{}, unknownDevice(record)
	case !none && d.State != records.Burned:
		return d, nil
	}
	switch _, missing := a.records.Planned(ctx, record); {
	case missing == nil:
		return records.Device{Record: record, Generation: d.Generation, State: records.Planned}, nil
	case !errors.Is(missing, records.ErrNotFound):
		return records.Device{}, missing
	case none:
		return records.Device{}, unknownDevice(record)
	}
	return d, nil
}

package provisioning

import (
	"time"

	"github.com/devicekeys/devicekeys/provisioning/records"
)

// strangerWait is how long an entry that another SPP on the same databases has put into
// the outbox is left to that SPP. Its stations wait there for the acknowledgement and
// hear of it at once; here nobody does, and two that submit the same entry do the work
// twice. Whoever doesn't send its entries in that time is taken to be gone.
const strangerWait = outboxPoll

// entrusted tells which entries of the outbox are this SPP's to send. It is part of the
// publisher; own is guarded by its mu, the rest is the loop's own.
type entrusted struct {
	own       map[deviceID]time.Time // restored by this process, and when
	strangers map[pending]time.Time  // of other processes, and when they were seen first
	begun     bool                   // the outbox was read to its end once: what stood there then was nobody's
}

// expect says that this process has put a device's entry into the outbox, and wakes the loop.
func (p *publisher) expect(id deviceID) {
	p.mu.Lock()
	p.trust.own[id] = time.Now()
	p.mu.Unlock()
	p.kick()
}

// ours picks from the outbox, read at the given time, what this process is to send: its own
// entries, those that somebody waits for here, notices, and what others have left for too
// long. whole says that there was no more in the outbox. Where all is at its start, all is.
func (p *publisher) ours(all []records.Pending, read time.Time, whole bool) []records.Pending {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := &p.trust
	var picked []records.Pending
	there := make(map[deviceID]bool, len(all))
	seen := make(map[pending]time.Time)
	for _, w := range all {
		id := pendingOf(w)
		there[id.deviceID] = true
		_, own := t.own[id.deviceID]
		if !own && !t.begun && w.Type == 0 {
			t.own[id.deviceID], own = read, true // nobody's, so ours from now on
		}
		if own || w.Type != 0 || p.waiting[id.deviceID] != nil {
			picked = append(picked, w)
			continue
		}
		first, known := t.strangers[id]
		if !known {
			first = read
		}
		seen[id] = first
		if read.Sub(first) >= strangerWait {
			picked = append(picked, w)
		}
	}
	t.strangers = seen
	if whole {
		t.begun = true
		for id, since := range t.own {
			if !there[id] && since.Before(read) {
				delete(t.own, id) // it has left the outbox
			}
		}
	}
	return picked
}

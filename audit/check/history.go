package check

import (
	"context"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// history is what the records hold of one chip: all its generations, oldest
// first.
type history []records.Device

// published tells whether the registry acknowledged the generation's entry,
// whatever became of the device since.
func published(d records.Device) bool { return d.State.Ever() || !d.PublishedAt.IsZero() }

// in gives the state that counts for an identity: of a quarantined generation
// the one that it was in before, to which a release returns it.
func in(d records.Device) records.State {
	if d.State == records.Quarantined {
		return d.Held
	}
	return d.State
}

// active tells whether the generation is on the line or in the field,
// quarantined or not.
func active(d records.Device) bool { return in(d).OnLine() || in(d).InField() }

// scrapped tells whether the chip is out of use.
func (h history) scrapped() bool {
	return h.any(func(d records.Device) bool { return d.State == records.Scrapped })
}

func (h history) any(is func(records.Device) bool) bool {
	for _, d := range h {
		if is(d) {
			return true
		}
	}
	return false
}

// finished gives the newest generation that was published, 0 if none was.
func (h history) finished() identity.Generation {
	for i := len(h) - 1; i >= 0; i-- {
		if published(h[i]) {
			return h[i].Generation
		}
	}
	return 0
}

// had tells whether an earlier generation was published with d's identity: then
// the pool has forgotten it, and the generation may be abandoned without it.
func (h history) had(d records.Device) bool {
	return h.any(func(e records.Device) bool {
		return e.Generation < d.Generation && e.Identity == d.Identity && published(e)
	})
}

// wants gives the state that the identity of a generation should be in, as its
// own record's; sure is false for a scrapped one, which may be another chip's
// by now.
func (h history) wants(d records.Device) (state records.UseState, sure bool) {
	with := func(states ...records.State) bool {
		return h.any(func(e records.Device) bool {
			if e.Identity != d.Identity {
				return false
			}
			for _, s := range states {
				if e.State == s {
					return true
				}
			}
			return len(states) == 0 && e.State != records.Burned
		})
	}
	switch {
	case with(records.Scrapped):
		return records.UseReleased, false
	case !with(): // all burned
		return records.UseBurned, true
	}
	return records.UseBound, true
}

// whole holds the generations of one chip against each other: what is done to a
// chip is done to all of it.
func (c *checker) whole(ctx context.Context, h history) {
	c.checked(OneDevice, 1)
	say := func(d records.Device, format string, args ...any) {
		if !c.moved(ctx, h...) {
			c.violated(OneDevice, d.Record, rows(deviceRow(d.Record, d.Generation)), format, args...)
		}
	}
	apart := h.any(func(d records.Device) bool { return d.State == records.Quarantined })
	for _, d := range h {
		switch {
		case h.scrapped() && (active(d) || d.State == records.Quarantined):
			say(d, "the chip is scrapped, but this generation is %s: a scrapped chip has no generation that is in use; one of its rows was changed by hand", d.State)
		case d.State == records.Quarantined && !active(d):
			say(d, "the device is quarantined, but its state before, %q, is none that it could return to: the row was changed by hand", d.Held)
		case apart && active(d) && d.State != records.Quarantined:
			say(d, "the device is quarantined, but this generation of it is %s: a quarantine is of the whole device; the row was changed by hand, or the device went on in spite of it", d.State)
		case d.State == records.Burned && published(d):
			say(d, "the generation is burned, but it was published as entry %d: what is in the field is scrapped, never burned; the row was changed by hand", d.Sequence)
		case d.State == records.Burned && !h.had(d) && h.any(func(e records.Device) bool { return e.Identity == d.Identity && e.Generation != d.Generation }):
			say(d, "generation %d is burned, and identity %s with it, but another generation of the chip has it too: a burned identity was given again, or the generation was abandoned with none before it in the field",
				d.Generation, d.Identity)
		}
	}
}

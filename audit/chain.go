package audit

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Entry is one link of the log.
type Entry struct {
	Seq int64 // from 1, dense
	At  time.Time
	Event
	Previous, Hash [sha256.Size]byte
	body           []byte
}

// ErrBroken says that the log is not what it was: an entry was changed,
// removed or put elsewhere, or its end was cut off. The error's text says
// where. What to do: stop the SPP, keep the database as it is, compare with the
// last backup and with the heads kept elsewhere.
var ErrBroken = errors.New("the audit log was tampered with")

// pageSize is how many entries one query reads: a megabyte or two, and far
// below the statement timeout.
const pageSize = 2000

// link computes an entry's hash as the function audit_append does.
func link(previous [sha256.Size]byte, seq int64, at time.Time, body []byte) [sha256.Size]byte {
	b := append([]byte(nil), previous[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(seq))
	b = binary.BigEndian.AppendUint64(b, uint64(at.UnixMicro()))
	return sha256.Sum256(append(b, body...))
}

// Verify walks the log from a head that was trusted before (the zero Head: from
// the first entry) to its end, and checks every link, that every one of heads
// lies on it, and that it ends where the database says. It calls each, if not
// nil, with every entry that is in order, and gives the head it came to. Entries
// that are appended meanwhile may be included or not.
//
// An error that matches ErrBroken tells what was found; other errors are of
// reading, or each's own.
func (l *Log) Verify(ctx context.Context, from Head, heads []Head, each func(Entry) error) (Head, error) {
	// The end is read first: what is appended after this only makes the log longer.
	end, err := l.Head(ctx)
	if err != nil {
		return Head{}, err
	}
	signed := map[int64]Head{}
	for _, h := range heads {
		if other, twice := signed[h.Seq]; twice && other.Hash != h.Hash {
			return Head{}, fmt.Errorf("%w: two signed heads of entry %d differ", ErrBroken, h.Seq)
		}
		signed[h.Seq] = h
		if h.Seq > end.Seq {
			return Head{}, fmt.Errorf("%w: entry %d was signed, but the log ends at entry %d: its end was cut off", ErrBroken, h.Seq, end.Seq)
		}
	}
	if from.Seq > end.Seq {
		return Head{}, fmt.Errorf("%w: entry %d was there before, but the log ends at entry %d: its end was cut off", ErrBroken, from.Seq, end.Seq)
	}
	at := from
	at.Realm, at.Statement = l.realm, nil
	for {
		page, err := l.page(ctx, at.Seq)
		if err != nil {
			return at, err
		}
		for _, e := range page {
			if err := follows(at, e); err != nil {
				return at, err
			}
			if h, ok := signed[e.Seq]; ok && h.Hash != e.Hash {
				return at, fmt.Errorf("%w: entry %d is not the one that was signed: the log was written anew", ErrBroken, e.Seq)
			}
			if e.Seq == end.Seq && e.Hash != end.Hash {
				return at, fmt.Errorf("%w: entry %d is not the one that the log's head names", ErrBroken, e.Seq)
			}
			if each != nil {
				if err := each(e); err != nil {
					return at, err
				}
			}
			at.Seq, at.Hash, at.At, at.signedTime = e.Seq, e.Hash, e.At, false
		}
		if len(page) < pageSize {
			break
		}
	}
	if at.Seq < end.Seq {
		return at, fmt.Errorf("%w: entry %d is missing, the log should reach entry %d: its end was cut off", ErrBroken, at.Seq+1, end.Seq)
	}
	if end.Seq == from.Seq && end.Hash != from.Hash {
		return at, fmt.Errorf("%w: entry %d is not the one that was there before", ErrBroken, end.Seq)
	}
	return at, nil
}

// follows tells whether e is the entry after the one at the head.
func follows(at Head, e Entry) error {
	switch {
	case e.Seq != at.Seq+1:
		return fmt.Errorf("%w: entry %d is missing, the next one is %d", ErrBroken, at.Seq+1, e.Seq)
	case link(e.Previous, e.Seq, e.At, e.body) != e.Hash:
		return fmt.Errorf("%w: entry %d was changed: its hash is not that of its body, number and time", ErrBroken, e.Seq)
	case e.Previous != at.Hash:
		return fmt.Errorf("%w: entry %d does not follow entry %d: entries were replaced or reordered", ErrBroken, e.Seq, at.Seq)
	case e.At.Before(at.At) && at.Seq > 0 && !at.signedTime:
		return fmt.Errorf("%w: entry %d is older than entry %d", ErrBroken, e.Seq, at.Seq)
	}
	return nil
}

// page reads the entries after seq. An entry whose body does not parse is still
// in its place in the chain; its Event is zero but for the note.
func (l *Log) page(ctx context.Context, after int64) ([]Entry, error) {
	rows, err := l.db.QueryContext(ctx, `select seq, at, body, previous, hash from audit_entry where seq > $1 order by seq limit $2`, after, pageSize)
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	defer rows.Close()
	var page []Entry
	for rows.Next() {
		var e Entry
		var previous, hash []byte
		if err := rows.Scan(&e.Seq, &e.At, &e.body, &previous, &hash); err != nil {
			return nil, fmt.Errorf("read the audit log: %w", err)
		}
		if err := errors.Join(fill(e.Previous[:], previous), fill(e.Hash[:], hash)); err != nil {
			return nil, err
		}
		// Whoever may append may append nonsense; it licenses nothing.
		if e.Event, err = ParseEvent(e.body); err != nil {
			e.Event = Event{Note: "unreadable: " + err.Error()}
		}
		page = append(page, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	return page, nil
}

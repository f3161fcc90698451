package flash

import (
	"errors"
	"fmt"
	"math"
)

// slot is one of the two copies of the identity area, as it was read.
type slot struct {
	sequence uint64
	content  []byte
	err      error // ErrEmpty, ErrTorn or nil
}

// Identity gives the content of the identity area. Its error matches ErrEmpty
// or ErrTorn where that is the reason.
func (f *Image) Identity() ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, current, err := f.slots()
	if err != nil {
		return nil, err
	}
	if current >= 0 {
		return s[current].content, nil
	}
	if errors.Is(s[0].err, ErrTorn) || errors.Is(s[1].err, ErrTorn) {
		return nil, ErrTorn
	}
	return nil, ErrEmpty
}

// slots reads both slots and tells which one counts, -1 where none does.
func (f *Image) slots() (s [2]slot, current int, err error) {
	current = -1
	for i := range s {
		b, err := f.read(slots[i])
		if err != nil {
			return s, -1, err
		}
		s[i].sequence, s[i].content, s[i].err = decodeRecord(b)
		if s[i].err == nil && (current < 0 || s[i].sequence > s[current].sequence) {
			current = i
		}
	}
	return s, current, nil
}

// WriteIdentity replaces the content of the identity area, durably.
//
// A crash before it returns leaves the old content or the new one; where there
// was none, it leaves ErrTorn, and the caller writes again.
func (f *Image) WriteIdentity(content []byte) error {
	if len(content) == 0 || len(content) > MaxIdentity {
		return fmt.Errorf("write flash: content of %d bytes, 1 to %d fit", len(content), MaxIdentity)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s, current, err := f.slots()
	if err != nil {
		return err
	}
	next, sequence := 0, uint64(1)
	if current >= 0 {
		if s[current].sequence == math.MaxUint64 {
			return fmt.Errorf("write flash: the sequence number is used up: erase the flash first")
		}
		next, sequence = 1-current, s[current].sequence+1
	}
	// A crash in this write leaves slot `next` torn; the other one still
	// counts, and the next write goes over the torn one.
	return f.write(slots[next], encodeRecord(sequence, content))
}

// Erase wipes the identity area, durably; the modules stay.
//
// A crash before it returns leaves the content that counted, or ErrTorn; never
// what had been replaced before. Erasing again finishes it.
func (f *Image) Erase() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, current, err := f.slots()
	if err != nil {
		return err
	}
	order := [2]int{0, 1}
	if current == 0 {
		order = [2]int{1, 0}
	}
	zeros := make([]byte, slotSize)
	for _, i := range order {
		if errors.Is(s[i].err, ErrEmpty) {
			continue
		}
		// Each slot is durable before the next one is touched.
		if err := f.write(slots[i], zeros); err != nil {
			return fmt.Errorf("erase flash: %w", err)
		}
	}
	return nil
}

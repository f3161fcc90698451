package audit

import (
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
)

// Kind says what an entry licenses.
type Kind string

// The kinds of entry.
const (
	// Assemble licenses deriving the device keys and signing the certificate
	// of one generation of one device, and the X.509 certificates whose serial
	// numbers its note names (SerialsNote).
	Assemble Kind = "assemble"
	// DeviceKey licenses deriving a device's keys, or signing its claims or
	// X.509 certificates as in Assemble, again.
	DeviceKey Kind = "device-key"
	// Unlock licenses signing one unlock statement.
	Unlock Kind = "unlock"
	// Registry licenses signing one scrap or erase statement.
	Registry Kind = "registry"
	// Certify licenses signing the X.509 certificates whose serial numbers its
	// note names, with a CA key (Certification, Certifications).
	Certify Kind = "certify"
	// Ceremony licenses one act of the custodians: a key made, backed up, retired.
	Ceremony Kind = "ceremony"
	// Check licenses an auditor's use of a key.
	Check Kind = "check"
	// Order is an operator's act that uses no key: a device quarantined, a station
	// revoked. It licenses the act itself.
	Order Kind = "order"
)

var kinds = map[Kind]bool{Assemble: true, DeviceKey: true, Unlock: true, Registry: true, Certify: true, Ceremony: true, Check: true, Order: true}

// Event is what an entry says. It is read by people for years: no secret, no
// chip ID.
type Event struct {
	Kind       Kind
	Key        string              // label of the key to be used; empty for an Order, and for nothing else
	Record     identity.RecordID   // zero if it concerns no device
	Generation identity.Generation // zero if it concerns no device, or, in an Order, a chip as a whole
	Actor      string              // who: a station, an operator, a program
	Note       string              // anything else, may be empty
}

// Limits of an event's texts, in bytes.
const (
	maxLabel = 64
	maxActor = 160  // "operator " and a name of 128
	maxNote  = 1408 // an act, what it is about, and a reason of 1024
)

// maxBody is the most the database takes; the texts and the framing stay below.
const maxBody = 4096

const eventVersion = 1

type eventWire struct {
	_          struct{} `cbor:",toarray"`
	Version    uint
	Kind       Kind
	Key        string
	Record     []byte // empty where there is no device
	Generation identity.Generation
	Actor      string
	Note       string
}

// Encode gives the event's one encoding, the body of its entry:
// [1, kind, key, record id or empty, generation, actor, note].
func (e Event) Encode() ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, fmt.Errorf("audit event: %w", err)
	}
	w := eventWire{Version: eventVersion, Kind: e.Kind, Key: e.Key, Record: []byte{}, Generation: e.Generation, Actor: e.Actor, Note: e.Note}
	if e.Record != (identity.RecordID{}) {
		w.Record = e.Record[:]
	}
	return detcbor.Marshal(w)
}

// ParseEvent reads the one encoding of an event.
func ParseEvent(b []byte) (Event, error) {
	var w eventWire
	if err := detcbor.Unmarshal(b, &w, maxBody); err != nil {
		return Event{}, fmt.Errorf("read audit event: %w", err)
	}
	if w.Record == nil { // null would be written back as an empty string
		return Event{}, errors.New("read audit event: null in place of the record id: an empty byte string says that there is none")
	}
	e := Event{Kind: w.Kind, Key: w.Key, Generation: w.Generation, Actor: w.Actor, Note: w.Note}
	switch {
	case w.Version != eventVersion:
		return Event{}, fmt.Errorf("read audit event: version %d is not known", w.Version)
	case len(w.Record) == len(e.Record):
		copy(e.Record[:], w.Record)
		if e.Record == (identity.RecordID{}) {
			return Event{}, fmt.Errorf("read audit event: the record id is all zero")
		}
	case len(w.Record) != 0:
		return Event{}, fmt.Errorf("read audit event: record id of %d bytes", len(w.Record))
	}
	if err := e.check(); err != nil {
		return Event{}, fmt.Errorf("read audit event: %w", err)
	}
	return e, nil
}

func (e Event) check() error {
	if !kinds[e.Kind] {
		return fmt.Errorf("kind %q is not known", e.Kind)
	}
	if noRecord := e.Record == (identity.RecordID{}); noRecord != (e.Generation == 0) && (noRecord || e.Kind != Order) {
		return fmt.Errorf("kind %s: record and generation come together or not at all", e.Kind)
	}
	if e.Record == (identity.RecordID{}) && (e.Kind == Assemble || e.Kind == DeviceKey || e.Kind == Unlock || e.Kind == Registry) {
		return fmt.Errorf("kind %s concerns a device: record and generation are missing", e.Kind)
	}
	minKey, maxKey := 1, maxLabel
	if e.Kind == Order {
		minKey, maxKey = 0, 0
	}
	for _, t := range []struct {
		name, text string
		min, max   int
	}{{"key label", e.Key, minKey, maxKey}, {"actor", e.Actor, 1, maxActor}, {"note", e.Note, 0, maxNote}} {
		if len(t.text) < t.min || len(t.text) > t.max {
			return fmt.Errorf("%s of %d bytes: %d to %d are allowed", t.name, len(t.text), t.min, t.max)
		}
		if !printable(t.text) {
			return fmt.Errorf("%s has characters that can't be printed", t.name)
		}
	}
	return nil
}

func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

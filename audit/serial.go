package audit

import (
	"fmt"
	"math/big"
	"slices"
	"strings"
)

// Every X.509 certificate has a serial number that is drawn before it is signed
// and stands, in lower-case hexadecimal, in the note of the entry that licensed it:
//
//	certify               "certificate <serial> <subject>"
//	certify               "certificates <serial> <serial> …; <what for>"
//	assemble, device-key  "<other keys>; certificates <serial> …"
//
// So a certificate that the CA's key signed without a licence is told from those
// that had one. A note that names no serial number licenses no certificate.

// MaxSerials is how many serial numbers one event names: what its note has room
// for, beside what they are for.
const MaxSerials = 24

const (
	oneSerial    = "certificate "
	manySerials  = "certificates "
	noteSeparate = "; "
)

// Certification is the event that licenses signing one X.509 certificate. The
// checker finds it again by the serial number.
func Certification(caKey string, serial *big.Int, subject, actor string) Event {
	return Event{Kind: Certify, Key: caKey, Actor: actor, Note: fmt.Sprintf("%s%s %s", oneSerial, SerialText(serial), subject)}
}

// Certifications are the events that license signing certificates with these
// serial numbers, as few as it takes; about says what for, in at most 256 bytes.
func Certifications(caKey string, serials []*big.Int, about, actor string) []Event {
	var all []Event
	for some := range slices.Chunk(serials, MaxSerials) {
		all = append(all, Event{Kind: Certify, Key: caKey, Actor: actor, Note: SerialsNote(some) + noteSeparate + about})
	}
	return all
}

// SerialsNote is the part of a note that names certificates: "certificates
// <serial> …"; empty for none. Other parts are set off from it by "; ".
func SerialsNote(serials []*big.Int) string {
	if len(serials) == 0 {
		return ""
	}
	var words []string
	for _, n := range serials {
		words = append(words, SerialText(n))
	}
	return manySerials + strings.Join(words, " ")
}

// SerialText is how entries spell a serial number: lower-case hexadecimal.
func SerialText(n *big.Int) string { return fmt.Sprintf("%x", n) }

// Serials gives the serial numbers of the certificates that the event licenses, as
// SerialText spells them.
func (e Event) Serials() []string {
	switch e.Kind {
	case Certify:
		// The subject may be any text: nothing behind the first word is a serial number.
		if rest, ok := strings.CutPrefix(e.Note, oneSerial); ok {
			serial, _, _ := strings.Cut(rest, " ")
			return []string{serial}
		}
	case Assemble, DeviceKey:
	default:
		return nil
	}
	for part := range strings.SplitSeq(e.Note, noteSeparate) {
		if rest, ok := strings.CutPrefix(part, manySerials); ok {
			return strings.Fields(rest)
		}
	}
	return nil
}

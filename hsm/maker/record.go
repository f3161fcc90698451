package maker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
)

// application is CKA_APPLICATION of the records in the token.
const application = "devicekeys-maker"

const (
	recordVersion = 1
	maxRecord     = 128 // bytes of an encoded record
)

// record says, in the token itself, that a master or purpose key was made, works and is what it claims: which version
// and by which KDF. It is written last, after the key was tried, and can be neither changed nor destroyed. A key
// without its record is one whose making a crash broke off.
type record struct {
	_       struct{} `cbor:",toarray"`
	Version uint
	Realm   identity.Realm
	Master  uint32
	KDF     hsm.KDF
	Purpose string // empty: it is the master key's record
}

func (r record) label() string {
	if r.Purpose == "" {
		return MasterLabel(r.Realm, r.Master)
	}
	return PurposeLabel(r.Realm, r.Purpose, r.Master)
}

// write puts the record into the token. A crash before it leaves the key without record, which the next Create
// checks and records; after it there is nothing left to do.
func (r record) write(ctx context.Context, tok *hsm.Token) error {
	b, err := detcbor.Marshal(r)
	if err != nil {
		return err
	}
	return tok.PutData(ctx, hsm.Data{Application: application, Label: r.label(), Value: b, Private: true, OneWay: true})
}

// records are all that a token holds, by label.
type records map[string]record

// readRecords reads the token's records and refuses what it doesn't understand: a record of the other realm, under a
// label that isn't its own, or one that could be changed.
func readRecords(ctx context.Context, tok *hsm.Token, realm identity.Realm) (records, error) {
	found, err := tok.Data(ctx, application, "")
	if err != nil {
		return nil, fmt.Errorf("read the records of the maker's keys: %w", err)
	}
	all := records{}
	for _, d := range found {
		r, err := parseRecord(d, realm)
		if err != nil {
			return nil, fmt.Errorf("record %q in token %q: %w: the token was changed by something else; stop using it", d.Label, tok.Info().Label, err)
		}
		// Two equal records say the same: a crash of two set-ups at once may leave them. Different ones can't have
		// one label and one realm without differing in their KDF.
		if before, ok := all[d.Label]; ok && before != r {
			return nil, fmt.Errorf("record %q in token %q stands twice and differs: the token was changed by something else; stop using it", d.Label, tok.Info().Label)
		}
		all[d.Label] = r
	}
	return all, nil
}

// sorted gives the records by label.
func (all records) sorted() []record {
	return slices.SortedFunc(maps.Values(all), func(a, b record) int { return strings.Compare(a.label(), b.label()) })
}

func parseRecord(d hsm.Data, realm identity.Realm) (record, error) {
	var r record
	if err := detcbor.Unmarshal(d.Value, &r, maxRecord); err != nil {
		return r, err
	}
	switch {
	case r.Version != recordVersion:
		return r, fmt.Errorf("version %d is not known", r.Version)
	case r.Realm != realm:
		return r, fmt.Errorf("it is of realm %s, expected is %s", r.Realm, realm)
	case r.Master == 0 || r.KDF != hsm.KDF1 && r.KDF != hsm.KDF2:
		return r, fmt.Errorf("master version %d with KDF %d is not possible", r.Master, r.KDF)
	case r.Purpose != "" && checkPurpose(r.Purpose) != nil:
		return r, checkPurpose(r.Purpose)
	case r.label() != d.Label:
		return r, fmt.Errorf("it belongs under label %q", r.label())
	case !d.OneWay || !d.Private:
		return r, errors.New("it could be changed or is readable without login")
	}
	return r, nil
}

// maxPurpose is the longest purpose, in characters: that of an entry's name (package keypackage), so that the
// label fits CKA_LABEL too.
const maxPurpose = 32

// checkPurpose allows what an entry of a manifest may be named: lower-case letters, digits and hyphens.
func checkPurpose(p string) error {
	if p == "" || len(p) > maxPurpose {
		return fmt.Errorf("purpose %q has %d characters: 1 to %d are allowed", p, len(p), maxPurpose)
	}
	for _, c := range p {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("purpose %q: %q is not a lower-case letter, digit or hyphen", p, c)
		}
	}
	return nil
}

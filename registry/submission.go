package registry

import (
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

// Bounds of a submission.
const (
	// MaxSubmissionEntries is the most entries of one submission: what the
	// sequencer writes in one transaction.
	MaxSubmissionEntries = 1000
	// MaxSubmission bounds a submission, in bytes. A thousand entries of one
	// key each come to one MiB; larger ones go in smaller submissions.
	MaxSubmission = 16 << 20
	// MaxSubmitter bounds the submitter's name, in bytes.
	MaxSubmitter = 64
)

const submissionVersion = 1

// Submission is what an SPP sends the sequencer, inside a statement signed by
// its submission key.
type Submission struct {
	Realm     identity.Realm
	Submitter string   // the SPP's name as its TLS certificate has it
	Entries   [][]byte // encoded entries (Entry.Encode), each judged on its own
}

type submissionWire struct {
	_         struct{} `cbor:",toarray"`
	Version   uint
	Realm     identity.Realm
	Submitter string
	Entries   [][]byte
}

// Encode gives the submission's one encoding: the payload of the statement.
func (s Submission) Encode() ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("encode submission: %w", err)
	}
	b, err := detcbor.Marshal(submissionWire{Version: submissionVersion, Realm: s.Realm, Submitter: s.Submitter, Entries: s.Entries})
	if err == nil && len(b) > MaxSubmission-submissionEnvelope {
		return nil, fmt.Errorf("encode submission: %d bytes, at most %d are allowed: submit fewer entries at once", len(b), MaxSubmission-submissionEnvelope)
	}
	return b, err
}

// submissionEnvelope is room for the statement around the payload.
const submissionEnvelope = 256

// SignSubmission encodes and signs a submission with the submission key.
func SignSubmission(ctx context.Context, signer statement.Signer, s Submission) ([]byte, error) {
	payload, err := s.Encode()
	if err != nil {
		return nil, err
	}
	return statement.Sign(ctx, signer, statement.Submission, payload)
}

// ParseSubmission checks form and signature with the submission key. The
// entries in it are bytes that nobody has looked at yet.
func ParseSubmission(raw []byte, key statement.PublicKey) (Submission, error) {
	payload, err := statement.Open(raw, statement.Submission, key, MaxSubmission)
	if err != nil {
		return Submission{}, err
	}
	return parseSubmission(payload)
}

// UnverifiedSubmission reads a submission without asking who signed it: for
// the submitter itself, and to learn which key to check with.
func UnverifiedSubmission(raw []byte) (Submission, statement.KeyID, error) {
	payload, key, err := statement.Unverified(raw, statement.Submission, MaxSubmission)
	if err != nil {
		return Submission{}, key, err
	}
	s, err := parseSubmission(payload)
	return s, key, err
}

func parseSubmission(payload []byte) (Submission, error) {
	if s, ok := readSubmission(payload); ok {
		if err := s.check(); err != nil {
			return Submission{}, fmt.Errorf("read submission: %w", err)
		}
		return s, nil
	}
	return parseOddSubmission(payload)
}

// parseOddSubmission is parseSubmission of what readSubmission doesn't take: it says what is wrong.
func parseOddSubmission(payload []byte) (Submission, error) {
	var w submissionWire
	if err := detcbor.Unmarshal(payload, &w, MaxSubmission); err != nil {
		return Submission{}, fmt.Errorf("read submission: %w", err)
	}
	if w.Version != submissionVersion {
		return Submission{}, fmt.Errorf("read submission: version %d is not known", w.Version)
	}
	s := Submission{Realm: w.Realm, Submitter: w.Submitter, Entries: w.Entries}
	if err := s.check(); err != nil {
		return Submission{}, fmt.Errorf("read submission: %w", err)
	}
	return s, nil
}

// submissionItems is how many items a submission's array has.
const submissionItems = 4

// readSubmission reads the usual case of a submission's encoding, whose parts the entries then are; what it gives for
// another is not ok.
func readSubmission(payload []byte) (s Submission, ok bool) {
	c := cursor{rest: payload}
	if len(payload) > MaxSubmission || c.array() != submissionItems || c.uint(submissionVersion) != submissionVersion {
		return Submission{}, false
	}
	s.Realm, s.Submitter = identity.Realm(c.uint(math.MaxUint8)), c.text()
	n := c.array()
	if c.odd || n > MaxSubmissionEntries {
		return Submission{}, false
	}
	s.Entries = make([][]byte, n)
	for i := range s.Entries {
		s.Entries[i] = c.bytes()
	}
	return s, c.done()
}

func (s Submission) check() error {
	switch {
	case !s.Realm.Valid():
		return fmt.Errorf("%s is not a realm", s.Realm)
	case s.Submitter == "" || len(s.Submitter) > MaxSubmitter || strings.ContainsAny(s.Submitter, "/\x00"):
		return fmt.Errorf("submitter %q: a name of 1 to %d bytes without a slash is expected", s.Submitter, MaxSubmitter)
	case len(s.Entries) == 0 || len(s.Entries) > MaxSubmissionEntries:
		return fmt.Errorf("%d entries: 1 to %d are allowed", len(s.Entries), MaxSubmissionEntries)
	}
	for i, e := range s.Entries {
		if len(e) == 0 || len(e) > MaxEntry {
			return fmt.Errorf("entry %d has %d bytes: 1 to %d are allowed", i+1, len(e), MaxEntry)
		}
	}
	return nil
}

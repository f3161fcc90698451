package sequencer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry"
	registryrpc "github.com/devicekeys/devicekeys/registry/rpc"
)

// How a single entry may have fared badly.
var (
	// ErrConflict says that another entry stands under the same type, record
	// id and generation. Submitting again changes nothing: someone has to look.
	ErrConflict = errors.New("another entry stands in its place")
	// ErrRefused says that the entry can't be taken as it is, or not in the
	// order in which it came.
	ErrRefused = errors.New("the sequencer refused the entry")
)

// Ack is the sequencer's word on one entry.
type Ack struct {
	Record     identity.RecordID
	Generation identity.Generation
	Type       registry.EntryType
	Sequence   int64             // the entry's place in the registry, where Err is nil
	LeafHash   [sha256.Size]byte // of the entry
	Err        error             // nil: durable; else it matches ErrConflict or ErrRefused
}

// Client submits entries. It is safe for concurrent use.
type Client struct {
	rpc registryrpc.SequencerServiceClient
}

// NewClient makes a client of the sequencer at url ("https://sequencer:7443").
// hc brings the SPP's TLS certificate and the CA that the sequencer's chains to.
func NewClient(hc connect.HTTPClient, url string, opts ...connect.ClientOption) *Client {
	opts = append([]connect.ClientOption{connect.WithReadMaxBytes(maxResponse)}, opts...)
	return &Client{registryrpc.NewSequencerServiceClient(hc, url, opts...)}
}

// maxResponse bounds an answer, in bytes: a thousand acks with a sentence each.
const maxResponse = 1 << 20

// Submit sends a signed submission (registry.SignSubmission) and gives one Ack
// for each of its entries, in order. An error means that the fate of the
// entries is unknown or that none was looked at: keep the bytes; where Retry
// says so submit the same again, which is always safe.
func (c *Client) Submit(ctx context.Context, submission []byte) ([]Ack, error) {
	sub, _, err := registry.UnverifiedSubmission(submission)
	if err != nil {
		return nil, fmt.Errorf("submit entries: %w", err)
	}
	resp, err := c.rpc.Submit(ctx, connect.NewRequest(&registryrpc.SubmitRequest{Submission: submission}))
	if err != nil {
		return nil, fmt.Errorf("submit %d entries: %w", len(sub.Entries), cut(ctx, err))
	}
	if len(resp.Msg.GetAcks()) != len(sub.Entries) {
		return nil, fmt.Errorf("submit %d entries: the sequencer answered for %d: is it of another version?", len(sub.Entries), len(resp.Msg.GetAcks()))
	}
	acks := make([]Ack, len(sub.Entries))
	for i, a := range resp.Msg.GetAcks() {
		if acks[i], err = readAck(sub.Entries[i], a); err != nil {
			return nil, fmt.Errorf("submit entries: answer %d: %w", i+1, err)
		}
	}
	return acks, nil
}

// cut gives an error its right code where the connection broke: connect takes a
// broken pipe for a call that was cancelled, though neither the caller did that
// nor the sequencer said it.
func cut(ctx context.Context, err error) error {
	switch connect.CodeOf(err) {
	case connect.CodeCanceled, connect.CodeInternal:
		if ctx.Err() == nil && !connect.IsWireError(err) {
			return connect.NewError(connect.CodeUnavailable, err)
		}
	}
	return err
}

func readAck(raw []byte, a *registryrpc.Ack) (Ack, error) {
	var ack Ack
	e, err := registry.ParseEntry(raw)
	if err == nil {
		ack = Ack{Record: e.Record, Generation: e.Generation, Type: e.Type, LeafHash: e.LeafHash()}
	}
	switch a.GetResult() {
	case registryrpc.Ack_RESULT_DURABLE:
		if err != nil || a.GetSequence() < 0 || string(a.GetLeafHash()) != string(ack.LeafHash[:]) {
			return Ack{}, fmt.Errorf("the sequencer acknowledged another entry than record %s, generation %d", ack.Record.Short(), ack.Generation)
		}
		ack.Sequence = a.GetSequence()
	case registryrpc.Ack_RESULT_CONFLICT:
		ack.Err = fmt.Errorf("record %s, generation %d: %w: %s", ack.Record.Short(), ack.Generation, ErrConflict, a.GetReason())
	case registryrpc.Ack_RESULT_REFUSED:
		ack.Err = fmt.Errorf("record %s, generation %d: %w: %s", ack.Record.Short(), ack.Generation, ErrRefused, a.GetReason())
	default:
		return Ack{}, fmt.Errorf("result %d is not known: is the sequencer of another version?", a.GetResult())
	}
	return ack, nil
}

// Retry says whether submitting the same bytes again may succeed, and when:
// the sequencer was busy or stopping, its database down, or it was not reached.
func Retry(err error) (after time.Duration, ok bool) {
	var e *connect.Error
	if !errors.As(err, &e) {
		return 0, false
	}
	s, parseErr := strconv.Atoi(e.Meta().Get("Retry-After"))
	named := parseErr == nil && s > 0 && s < 3600
	switch e.Code() {
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeUnknown:
		if !named {
			return busyRetry, true
		}
	case connect.CodeResourceExhausted: // without a time it is a message beyond the limit
	default:
		return 0, false
	}
	return time.Duration(s) * time.Second, named
}

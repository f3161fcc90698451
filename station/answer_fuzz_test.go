package station_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
	"github.com/devicekeys/devicekeys/station"
)

// canned is an SPP that gives one answer to every call.
type canned struct {
	status int
	kind   string
	body   []byte
}

func (s canned) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		io.Copy(io.Discard, r.Body)
		r.Body.Close()
	}
	return &http.Response{StatusCode: s.status, Proto: "HTTP/2.0", ProtoMajor: 2, Request: r, ContentLength: -1,
		Header: http.Header{"Content-Type": {s.kind}}, Body: io.NopCloser(bytes.NewReader(s.body))}, nil
}

// answerBound is far more than an answer from memory takes on a loaded machine.
const answerBound = 10 * time.Second

// FuzzAnswer: whatever an SPP answers is a challenge or an error of one of the kinds that a line knows, within the call's patience, and
// never asks for a wait above the bound.
func FuzzAnswer(f *testing.F) {
	answer, err := proto.Marshal(&provisioningrpc.ChallengeResponse{Challenge: bytes.Repeat([]byte{7}, 32)})
	must(f, err)
	f.Add(uint16(200), "application/proto", answer)
	f.Add(uint16(200), "application/proto", answer[:10])
	f.Add(uint16(200), "text/html", []byte("<html>"))
	f.Add(uint16(503), "", []byte{})
	for _, r := range []*provisioningrpc.Refusal{
		{Code: "unknown-device", Next: "begin it"}, {Code: "hsm", RetryAfterMs: 1}, {Code: "busy", RetryAfterMs: 1 << 62}, {Code: "quota", RetryAfterMs: -1},
	} {
		detail, err := proto.Marshal(r)
		must(f, err)
		f.Add(uint16(412), "application/json", []byte(`{"code":"failed_precondition","message":"no","details":[{"type":"devicekeys.provisioning.v1.Refusal","value":"`+base64.RawStdEncoding.EncodeToString(detail)+`"}]}`))
	}
	f.Add(uint16(503), "application/json", []byte(`{"code":"unavailable","message":"away","details":[{"type":"x","value":"!"}]}`))
	f.Add(uint16(400), "application/json", []byte(`{"code":17,"details":null}`))
	f.Fuzz(func(t *testing.T, status uint16, kind string, body []byte) {
		s := canned{status: int(status), kind: kind, body: body}
		c := station.NewClient(&http.Client{Transport: s}, "http://spp.example").WithBounds(answerBound, time.Millisecond, time.Millisecond, time.Millisecond)
		begun := time.Now()
		challenge, err := c.Challenge(t.Context(), make([]byte, 32))
		if time.Since(begun) > answerBound {
			t.Errorf("it took %s", time.Since(begun))
		}
		if err == nil {
			var m provisioningrpc.ChallengeResponse
			if status != 200 || proto.Unmarshal(body, &m) != nil || !bytes.Equal(m.GetChallenge(), challenge) {
				t.Errorf("status %d with %x is an answer: %x", status, body, challenge)
			}
			return
		}
		var r *station.RefusedError
		switch {
		case errors.As(err, &r):
			if r.After < 0 || r.After > time.Hour || r.Code == "" {
				t.Errorf("%+v", r)
			}
		case errors.Is(err, station.ErrUnreachable), errors.Is(err, station.ErrAway), errors.Is(err, station.ErrTrust), errors.Is(err, context.DeadlineExceeded):
		default:
			t.Errorf("%T, of no kind: %v", err, err)
		}
	})
}

// An answer that never ends is refused at its limit, and what is just below it is read.
func TestAnswerLimit(t *testing.T) {
	t.Parallel()
	for size, want := range map[int]bool{1<<20 - 16: true, 1<<20 + 1: false} {
		body, err := proto.Marshal(&provisioningrpc.ChallengeResponse{Challenge: make([]byte, size)})
		must(t, err)
		s := canned{status: 200, kind: "application/proto", body: body}
		c := station.NewClient(&http.Client{Transport: s}, "http://spp.example").WithBounds(answerBound, time.Millisecond, time.Millisecond, time.Millisecond)
		if challenge, err := c.Challenge(t.Context(), make([]byte, 32)); (err == nil) != want || want != (len(challenge) == size) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

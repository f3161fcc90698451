package sequencer_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/registrytest"
	registryrpc "github.com/devicekeys/devicekeys/registry/rpc"
	"github.com/devicekeys/devicekeys/registry/sequencer"
	"github.com/devicekeys/devicekeys/registry/store"
	"github.com/devicekeys/devicekeys/statement"
)

// FuzzInspect: an entry that is taken is one, of this realm, under a statement
// of the identity-signing key where it has one; a refusal has a reason.
func FuzzInspect(f *testing.F) {
	o := options(f)
	f.Add(registrytest.Encode(f, registrytest.Entry(f, 1, 1)))
	f.Add(registrytest.Encode(f, registrytest.End(f, 1, 1, registry.Scrap, registrytest.ROM(f))))
	f.Add(registrytest.Encode(f, registrytest.End(f, 1, 1, registry.Scrap, submissionKey(f))))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if sequencer.Inspect(raw, o) != "" {
			return
		}
		e, err := registry.ParseEntry(raw)
		if err != nil || e.Realm != o.Realm {
			t.Fatalf("taken: a %s entry of the %s realm, %v", e.Type, e.Realm, err)
		}
		if !e.Type.HasRecord() && e.CheckStatement(o.IdentityKeys[0]) != nil && e.CheckStatement(o.IdentityKeys[1]) != nil {
			t.Fatalf("taken: a %s entry without a statement", e.Type)
		}
	})
}

// FuzzAck: whatever a sequencer answers, what is said to be durable is the entry that was submitted, what is
// refused says so, and the rest is an error.
func FuzzAck(f *testing.F) {
	e := registrytest.Entry(f, 1, 1)
	raw, leaf := registrytest.Encode(f, e), e.LeafHash()
	ack := func(a *registryrpc.Ack) []byte {
		b, err := proto.Marshal(a)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	f.Add(raw, ack(&registryrpc.Ack{Result: registryrpc.Ack_RESULT_DURABLE, Sequence: 7, LeafHash: leaf[:]}))
	f.Add(raw, ack(&registryrpc.Ack{Result: registryrpc.Ack_RESULT_DURABLE, Sequence: -1, LeafHash: leaf[:]}))
	f.Add(raw, ack(&registryrpc.Ack{Result: registryrpc.Ack_RESULT_DURABLE, LeafHash: leaf[1:]}))
	f.Add([]byte{0x80}, ack(&registryrpc.Ack{Result: registryrpc.Ack_RESULT_DURABLE, LeafHash: make([]byte, 32)}))
	f.Add(raw, ack(&registryrpc.Ack{Result: registryrpc.Ack_RESULT_CONFLICT, Reason: "another one stands"}))
	f.Add(raw, ack(&registryrpc.Ack{Result: registryrpc.Ack_RESULT_REFUSED}))
	f.Add(raw, ack(&registryrpc.Ack{Result: 99}))
	f.Fuzz(func(t *testing.T, entry, answer []byte) {
		var a registryrpc.Ack
		if proto.Unmarshal(answer, &a) != nil {
			return
		}
		got, err := sequencer.ReadAck(entry, &a)
		if err != nil {
			return
		}
		e, bad := registry.ParseEntry(entry)
		switch {
		case got.Err == nil && (bad != nil || got.Record != e.Record || got.Generation != e.Generation || got.Type != e.Type ||
			got.LeafHash != e.LeafHash() || string(a.GetLeafHash()) != string(got.LeafHash[:]) || got.Sequence < 0 || got.Sequence != a.GetSequence()):
			t.Fatalf("durable: %+v", got)
		case got.Err != nil && errors.Is(got.Err, sequencer.ErrConflict) == errors.Is(got.Err, sequencer.ErrRefused):
			t.Fatalf("neither in conflict nor refused, or both: %v", got.Err)
		}
	})
}

// FuzzRetry: whatever code and time a sequencer's error names, to wait for it takes less than an hour
// and more than nothing.
func FuzzRetry(f *testing.F) {
	f.Add(uint32(connect.CodeUnavailable), "5")
	f.Add(uint32(connect.CodeUnavailable), "")
	f.Add(uint32(connect.CodeUnknown), "-1")
	f.Add(uint32(connect.CodeResourceExhausted), "")
	f.Add(uint32(connect.CodeResourceExhausted), "99999999999999999999")
	f.Add(uint32(connect.CodeInvalidArgument), "1")
	f.Fuzz(func(t *testing.T, code uint32, after string) {
		e := connect.NewError(connect.Code(code), errors.New("no"))
		e.Meta().Set("Retry-After", after)
		wait, ok := sequencer.Retry(fmt.Errorf("submit: %w", e))
		if ok && (wait <= 0 || wait >= time.Hour) {
			t.Fatalf("code %d, %q: again after %s", code, after, wait)
		}
		if ok && (e.Code() == connect.CodeInvalidArgument || e.Code() == connect.CodePermissionDenied) {
			t.Fatalf("code %d is tried again", code)
		}
	})
}

// scroll is a log in memory that forgets: nothing stands of any record.
type scroll struct{ head int64 }

func (s *scroll) Head(context.Context) (int64, error)           { return s.head, nil }
func (s *scroll) Realm(context.Context) (identity.Realm, error) { return identity.Development, nil }
func (s *scroll) Settle(_ context.Context, head int64, _ [][sha256.Size]byte) (int64, error) {
	return head, nil
}

func (s *scroll) Append(_ context.Context, _ int64, _ []identity.RecordID, choose func([]store.Standing) []store.New) (int64, error) {
	s.head += int64(len(choose(nil)))
	return s.head, nil
}

// FuzzSubmit sends the service's handler any body, in protobuf and in JSON, and
// any submission under the right signature: it answers, for each entry, or
// refuses, and never fails itself.
func FuzzSubmit(f *testing.F) {
	o := options(f)
	s, err := sequencer.New(f.Context(), &scroll{}, o)
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	f.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			f.Error(err)
		}
	})
	who, err := url.Parse(submitterURI)
	if err != nil {
		f.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(1), URIs: []*url.URL{who}, NotAfter: time.Now().Add(24 * 365 * time.Hour)}
	spp := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf}}}
	handler := s.Handler()

	raw := submission(f, registrytest.Entry(f, 1, 1), registrytest.End(f, 1, 1, registry.Scrap, registrytest.ROM(f)))
	payload, _, err := statement.Unverified(raw, statement.Submission, registry.MaxSubmission)
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range [][]byte{raw, raw[:len(raw)-1], payload, payload[:40], {}} {
		m := &registryrpc.SubmitRequest{Submission: b}
		wire, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		text, err := protojson.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(0), wire)
		f.Add(uint8(1), text)
		f.Add(uint8(2), b)
	}
	f.Fuzz(func(t *testing.T, how uint8, body []byte) {
		media, entries := "application/proto", -1
		switch how % 3 {
		case 1:
			media = "application/json"
		case 2: // a payload, under the submission key's signature
			signed, err := statement.Sign(t.Context(), submissionKey(t), statement.Submission, body)
			if err != nil {
				return
			}
			if s, err := registry.ParseSubmission(signed, submissionKey(t).Public()); err == nil && s.Submitter == submitterName && s.Realm == o.Realm {
				entries = len(s.Entries)
			}
			if body, err = proto.Marshal(&registryrpc.SubmitRequest{Submission: signed}); err != nil {
				t.Fatal(err)
			}
		}
		r := httptest.NewRequest(http.MethodPost, "/devicekeys.registry.v1.SequencerService/Submit", bytes.NewReader(body))
		r.Header.Set("Content-Type", media)
		r.TLS = spp
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code == http.StatusOK {
			var answer registryrpc.SubmitResponse
			if media == "application/json" {
				err = protojson.Unmarshal(w.Body.Bytes(), &answer)
			} else {
				err = proto.Unmarshal(w.Body.Bytes(), &answer)
			}
			if err != nil || entries >= 0 && len(answer.Acks) != entries {
				t.Fatalf("%d answers to %d entries, %v", len(answer.Acks), entries, err)
			}
			for _, a := range answer.Acks {
				if (a.Result == registryrpc.Ack_RESULT_DURABLE) != (len(a.LeafHash) == sha256.Size) || a.Result == registryrpc.Ack_RESULT_UNSPECIFIED ||
					(a.Result == registryrpc.Ack_RESULT_DURABLE) != (a.Reason == "") {
					t.Fatalf("answer %v", &answer)
				}
			}
			return
		}
		var e struct{ Code, Message string }
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Code == "" {
			t.Fatalf("%d, and no error in %q: %v", w.Code, w.Body, err)
		}
		if entries >= 0 || w.Code >= 500 || e.Code == "internal" || e.Code == "unknown" || strings.Contains(e.Message, "sequencer.") {
			t.Fatalf("%d, %s: %s", w.Code, e.Code, e.Message)
		}
	})
}
